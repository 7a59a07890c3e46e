"""Saved state as real bytes: our own format, byte for byte as long as the engine's.

A sequence begins with a magic number and a version, a whole context with the name of its
architecture. Then, cache by cache: the cells (position, number of ids, ids), and layer by layer the
type, the row size and the rows of K and V, or of R and S. Integers are little-endian. Rows come
from a backend that has them, or are zeros.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from sim.llamacpp.cells import NOBODY, SHARED, words_of
from sim.llamacpp.context import Context
from sim.llamacpp.errors import StateMismatch
from sim.llamacpp.geometry import RecurrentGeometry
from sim.llamacpp.sizes import BLOCKS, AttentionRows
from sim.llamacpp.state import (
    AttentionState,
    CacheState,
    RecurrentState,
    SavedState,
    StreamState,
)

MAGIC = 0x424C564B  # "KVLB"
VERSION = 1
_TYPES = list(BLOCKS)


@dataclass(frozen=True, slots=True)
class RowsOf:
    """Which rows: of a cache's stream, one tensor of one layer, ``nbytes`` for all saved cells.

    Rows follow one another in the order of the saved cells; a transposed V has the elements of all
    cells side by side instead.
    """

    cache: str
    stream: int
    tensor: Literal["k", "v", "r", "s"]
    layer: int
    nbytes: int


RowSource = Callable[[RowsOf], bytes]
RowSink = Callable[[RowsOf, memoryview], None]


def zeros(rows: RowsOf) -> bytes:
    """The rows of a simulation, which has none."""
    return bytes(rows.nbytes)


def ignore(rows: RowsOf, data: memoryview) -> None:
    """What a simulation does with rows."""
    del rows, data


def state_to_bytes(saved: SavedState, rows: RowSource = zeros) -> bytes:
    """The saved state as bytes, `SavedState.nbytes` of them."""
    if saved.arch is None:
        out = [struct.pack("<II", MAGIC, VERSION)]
    else:
        name = saved.arch.encode()
        out = [struct.pack("<I", len(name)), name]
    for part in saved.parts:
        if isinstance(part, AttentionState):
            _write_attention(part, rows, out)
        else:
            _write_recurrent(part, rows, out)
    return b"".join(out)


def _write_attention(part: AttentionState, source: RowSource, out: list[bytes]) -> None:
    out.append(struct.pack("<I", len(part.streams)))
    for stream, state in enumerate(part.streams):
        n = 0 if state is None else state.pos.size
        out.append(struct.pack("<I", n))
        if state is None:
            continue
        out.append(_cells_to_bytes(state))
        out.append(struct.pack("<II", part.rows.transposed_v, part.rows.geometry.layers))
        for tensor, header, size in _attention_tensors(part.rows):
            for layer in range(part.rows.geometry.layers):
                out.append(header)
                out.append(_rows(source, RowsOf(part.cache, stream, tensor, layer, n * size)))


def _write_recurrent(part: RecurrentState, source: RowSource, out: list[bytes]) -> None:
    out.append(struct.pack("<I", len(part.cells)))
    for pos, ids in part.cells:
        out.append(struct.pack(f"<iI{len(ids)}i", pos, len(ids), *ids))
    out.append(struct.pack("<II", 0, part.geometry.layers))
    n = len(part.cells)
    for tensor, header, size in _recurrent_tensors(part.geometry):
        for layer in range(part.geometry.layers):
            out.append(header)
            out.append(_rows(source, RowsOf(part.cache, 0, tensor, layer, n * size)))


def _rows(source: RowSource, rows: RowsOf) -> bytes:
    data = source(rows)
    if len(data) != rows.nbytes:
        raise ValueError(f"{rows}: {len(data)} bytes given")
    return data


_Tensor = tuple[Literal["k", "v", "r", "s"], bytes, int]


def _attention_tensors(rows: AttentionRows) -> list[_Tensor]:
    """(tensor, header of each layer, row bytes)."""
    type_k, type_v = _TYPES.index(rows.type_k), _TYPES.index(rows.type_v)
    header_v = struct.pack("<iQ", type_v, rows.v)
    if rows.transposed_v:
        header_v = struct.pack("<iII", type_v, BLOCKS[rows.type_v][1], rows.geometry.v_width)
    return [("k", struct.pack("<iQ", type_k, rows.k), rows.k), ("v", header_v, rows.v)]


def _recurrent_tensors(geometry: RecurrentGeometry) -> list[_Tensor]:
    r, s = 4 * geometry.r_width, 4 * geometry.s_width
    kind = _TYPES.index("f32")
    return [("r", struct.pack("<iQ", kind, r), r), ("s", struct.pack("<iQ", kind, s), s)]


def _cells_to_bytes(state: StreamState) -> bytes:
    """(position, number of ids, ids) of every cell, as int32."""
    counts = state.id_counts().astype(np.int64)
    begin = np.cumsum(2 + counts) - (2 + counts)
    out = np.empty(int((2 + counts).sum()), "<i4")
    out[begin], out[begin + 1] = state.pos, counts
    single = np.flatnonzero(state.owner >= 0)
    out[begin[single] + 2] = state.owner[single]
    shared = np.flatnonzero(state.owner == SHARED)
    if shared.size:
        assert state.sets is not None
        words = np.ascontiguousarray(state.sets[shared]).view(np.uint8)
        cell, seq = np.nonzero(np.unpackbits(words, axis=1, bitorder="little"))
        rank = np.arange(cell.size) - np.repeat(
            np.cumsum(counts[shared]) - counts[shared], counts[shared]
        )
        out[begin[shared][cell] + 2 + rank] = seq
    return out.tobytes()


class _Reader:
    """Reads integers and rows off a buffer, refusing to go beyond its end."""

    def __init__(self, data: bytes, sink: RowSink) -> None:
        self._data = memoryview(data)
        self._at = 0
        self._sink = sink

    def raw(self, n: int) -> memoryview:
        if self._at + n > len(self._data):
            raise StateMismatch(f"saved state breaks off at byte {len(self._data)}")
        self._at += n
        return self._data[self._at - n : self._at]

    def numbers(self, layout: str) -> tuple[int, ...]:
        found: tuple[int, ...] = struct.unpack(layout, self.raw(struct.calcsize(layout)))
        return found

    def expect(self, what: str, layout: str, *wanted: int) -> None:
        found = self.numbers(layout)
        if found != wanted:
            raise StateMismatch(f"saved state: {what} {found}, this context has {wanted}")

    def tensors(self, tensors: list[_Tensor], layers: int, cache: str, stream: int, n: int) -> None:
        for tensor, header, size in tensors:
            for layer in range(layers):
                if bytes(self.raw(len(header))) != header:
                    raise StateMismatch(
                        f"saved state: rows of {cache}.{tensor} are of another type"
                    )
                self._sink(RowsOf(cache, stream, tensor, layer, n * size), self.raw(n * size))

    def end(self) -> None:
        if self._at != len(self._data):
            raise StateMismatch(f"saved state: {len(self._data) - self._at} bytes too many")


def state_from_bytes(
    data: bytes, context: Context, *, whole: bool, partial: bool = False, sink: RowSink = ignore
) -> SavedState:
    """The state that `state_to_bytes` wrote, for a context like the one it was saved from.

    whole: of a whole context. partial: saved in part. ``sink`` is handed the rows. Raises
    `StateMismatch` for bytes that are none, or not for such a context.
    """
    reader = _Reader(data, sink)
    arch = None
    if whole:
        arch = context.geometry.arch
        reader.expect("length of the architecture's name", "<I", len(arch))
        if bytes(reader.raw(len(arch))) != arch.encode():
            raise StateMismatch(f"saved state is not of a model of architecture {arch!r}")
    else:
        reader.expect("magic number and version", "<II", MAGIC, VERSION)
    parts: list[CacheState] = []
    attention = context.attention
    for name in context.memory.saved_caches(partial):
        if name in attention:
            cache = attention[name]
            parts.append(_read_attention(reader, name, cache.rows, cache.n_stream))
        else:
            assert context.geometry.recurrent is not None
            parts.append(_read_recurrent(reader, context.geometry.recurrent))
    reader.end()
    return SavedState(parts, arch, partial)


def _read_attention(
    reader: _Reader, name: str, rows: AttentionRows, n_stream: int
) -> AttentionState:
    reader.expect("streams", "<I", n_stream)
    streams: list[StreamState | None] = []
    for stream in range(n_stream):
        (n,) = reader.numbers("<I")
        if n == 0:
            streams.append(None)
            continue
        streams.append(_read_cells(reader, n))
        layers = rows.geometry.layers
        reader.expect("V layout and layers", "<II", rows.transposed_v, layers)
        reader.tensors(_attention_tensors(rows), layers, name, stream, n)
    return AttentionState(name, rows, streams)


def _read_cells(reader: _Reader, n: int) -> StreamState:
    cells = [_read_cell(reader) for _ in range(n)]
    pos = np.array([pos for pos, _ in cells], np.int32)
    owner = np.array(
        [NOBODY if not ids else ids[0] if len(ids) == 1 else SHARED for _, ids in cells], np.int32
    )
    if not (owner == SHARED).any():
        return StreamState(pos, owner, None)
    rows = [words_of(ids) if len(ids) > 1 else [] for _, ids in cells]
    sets = np.zeros((n, max(map(len, rows))), np.uint64)
    for i, words in enumerate(rows):
        sets[i, : len(words)] = words
    return StreamState(pos, owner, sets)


def _read_cell(reader: _Reader) -> tuple[int, tuple[int, ...]]:
    pos, n = reader.numbers("<iI")
    return pos, reader.numbers(f"<{n}i")


def _read_recurrent(reader: _Reader, geometry: RecurrentGeometry) -> RecurrentState:
    (n,) = reader.numbers("<I")
    cells = [_read_cell(reader) for _ in range(n)]
    reader.expect("state layout and layers", "<II", 0, geometry.layers)
    reader.tensors(_recurrent_tensors(geometry), geometry.layers, "rs", 0, n)
    return RecurrentState(geometry, cells)
