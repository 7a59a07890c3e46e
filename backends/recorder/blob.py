"""Cells in the state that llama.cpp writes.

Layout: ``llama_kv_cache::state_write`` and ``llama_memory_recurrent::state_write``. The library of
a recording may write some bytes more per stream with cells (since 2026: how K and V are rotated);
how many is found out by `stream_bytes_of`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Any

#: Bytes before the state of a sequence: magic and version.
SEQ_HEADER = 8

#: `[[seqs], first_pos, count]` of every run of cells, for every stream; or `[pos, [seqs]]` of every
#: recurrent cell.
Cells = dict[str, list[Any]]


class _Reader:
    def __init__(self, data: bytes, at: int, stream_bytes: int) -> None:
        self.data, self.at = data, at
        self.stream_bytes = stream_bytes

    def number(self, signed: bool = False) -> int:
        (value,) = struct.unpack_from("<i" if signed else "<I", self.data, self.at)
        self.at += 4
        return int(value)

    def skip(self, n: int) -> None:
        self.at += n
        if self.at > len(self.data):
            raise ValueError("the state breaks off")

    def cells(self, n: int) -> Iterator[tuple[int, list[int]]]:
        """Position and sequences of ``n`` cells."""
        for _ in range(n):
            pos, n_seqs = self.number(signed=True), self.number()
            yield pos, [self.number() for _ in range(n_seqs)]

    def attention(self) -> list[Any]:
        """One cache: the runs of cells in every stream."""
        streams = []
        for _ in range(self.number()):
            runs: list[list[Any]] = []
            n = self.number()
            for pos, seqs in self.cells(n):
                if runs and runs[-1][0] == seqs and runs[-1][1] + runs[-1][2] == pos:
                    runs[-1][2] += 1
                else:
                    runs.append([seqs, pos, 1])
            if n:
                self._rows(n)
            streams.append(runs)
        return streams

    def _rows(self, n: int) -> None:
        """Pass over the rows of ``n`` cells."""
        transposed, layers = self.number(), self.number()
        self.skip(self.stream_bytes)
        for _ in range(layers):
            self._row_of(n)
        for _ in range(layers):
            if transposed:
                self.skip(4)
                element, width = self.number(), self.number()
                self.skip(element * width * n)
            else:
                self._row_of(n)

    def _row_of(self, n: int) -> None:
        self.skip(4)
        (size,) = struct.unpack_from("<Q", self.data, self.at)
        self.skip(8 + size * n)

    def recurrent(self, layers: int) -> list[Any]:
        """Every state: its position and sequences. layers: those that have a state."""
        n = self.number()
        cells = [[pos, seqs] for pos, seqs in self.cells(n)]
        self.skip(8)
        for _ in range(2 * layers):
            self._row_of(n)
        return cells


def after_architecture(data: bytes) -> int:
    """Bytes of a context's state before its caches: the architecture's name and its length."""
    (length,) = struct.unpack_from("<I", data)
    return 4 + int(length)


def cells_in(
    data: bytes, at: int, caches: Sequence[str], recurrent_layers: int, stream_bytes: int
) -> Cells:
    """The cells of ``caches``, in the order of ``data``, which begins with them at byte ``at``.

    Raises ValueError where ``data`` has not exactly this content.
    """
    reader = _Reader(data, at, stream_bytes)
    try:
        found: Cells = {
            name: reader.recurrent(recurrent_layers) if name == "rs" else reader.attention()
            for name in caches
        }
    except struct.error as error:
        raise ValueError(f"the state breaks off ({error})") from error
    if reader.at != len(data):
        raise ValueError(f"{len(data) - reader.at} bytes left over")
    return found


def stream_bytes_of(data: bytes, at: int, caches: Sequence[str], recurrent_layers: int) -> int:
    """Bytes more than in llama.cpp 0c1e57098 that ``data`` has per stream with cells.

    Raises ValueError where no number up to 64 makes sense of ``data``.
    """
    for more in range(0, 65, 4):
        try:
            cells_in(data, at, caches, recurrent_layers, more)
        except (ValueError, OverflowError, MemoryError):
            continue
        return more
    raise ValueError("state of a layout that this recorder does not know")
