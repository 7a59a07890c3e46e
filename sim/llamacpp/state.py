"""Saved state: the cells of a sequence or of a whole context, and how many bytes they are.

Metadata only: K/V rows are counted, not stored. `sim.llamacpp.state_bytes` makes real bytes of it.
Layout and sizes are those of ``llama_kv_cache::state_write`` and its recurrent counterpart.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sim.llamacpp.cells import SHARED, Sets
from sim.llamacpp.geometry import RecurrentGeometry
from sim.llamacpp.sizes import AttentionRows
from sim.llamacpp.spans import Ids, Positions

#: Bytes before each layer's rows: type and row size (transposed V: type, element size, width).
_LAYER_HEADER = 12


def attention_data_bytes(rows: AttentionRows, n: int) -> int:
    """Bytes of ``n`` cells' rows of one stream, with the headers of the section."""
    layers = rows.geometry.layers
    return 8 + layers * (_LAYER_HEADER + n * rows.k) + layers * (_LAYER_HEADER + n * rows.v)


def recurrent_data_bytes(geometry: RecurrentGeometry, n: int) -> int:
    """Bytes of ``n`` recurrent states, with the headers of the section."""
    r, s = 4 * geometry.r_width, 4 * geometry.s_width
    return 8 + geometry.layers * (_LAYER_HEADER + n * r + _LAYER_HEADER + n * s)


@dataclass(slots=True)
class StreamState:
    """The saved cells of one stream, in cell order.

    pos: int32[k]. owner: int32[k] as `Cells.owner`, without ids that a context of ``n_seq_max``
    sequences cannot name. sets: owner bits of shared cells or None.
    """

    pos: Positions
    owner: Ids
    sets: Sets | None

    def id_counts(self) -> Ids:
        """How many sequence ids are saved with each cell."""
        counts = (self.owner >= 0).astype(np.int32)
        if self.sets is not None:
            bits = np.unpackbits(np.ascontiguousarray(self.sets).view(np.uint8), axis=1)
            counts[self.owner == SHARED] = bits.sum(axis=1)[self.owner == SHARED]
        return counts


@dataclass(slots=True)
class AttentionState:
    """One attention cache's part; streams without saved cells are None."""

    cache: str
    rows: AttentionRows
    streams: list[StreamState | None]

    @property
    def nbytes(self) -> int:
        """Bytes of this part."""
        total = 4
        for stream in self.streams:
            total += 4
            if stream is not None:
                total += 8 * stream.pos.size + 4 * int(stream.id_counts().sum())
                total += attention_data_bytes(self.rows, stream.pos.size)
        return total


@dataclass(slots=True)
class RecurrentState:
    """The recurrent cache's part: (position, ids saved with it) of every saved cell, in order."""

    geometry: RecurrentGeometry
    cells: list[tuple[int, tuple[int, ...]]]
    cache: str = "rs"

    @property
    def nbytes(self) -> int:
        """Bytes of this part."""
        meta = sum(8 + 4 * len(ids) for _, ids in self.cells)
        return 4 + meta + recurrent_data_bytes(self.geometry, len(self.cells))


CacheState = AttentionState | RecurrentState

#: Bytes before a sequence's state: magic and version.
SEQ_HEADER = 8


def context_header_bytes(arch: str) -> int:
    """Bytes before a whole context's state: the length of the architecture's name, and the name."""
    return 4 + len(arch)


@dataclass(slots=True)
class SavedState:
    """A saved sequence, or a saved whole context (``arch`` given).

    partial: saved with LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY.
    """

    parts: list[CacheState]
    arch: str | None = None
    partial: bool = False

    @property
    def nbytes(self) -> int:
        """Bytes as the engine counts them: what its save and load calls return."""
        header = SEQ_HEADER if self.arch is None else context_header_bytes(self.arch)
        return header + sum(part.nbytes for part in self.parts)

    @property
    def cells(self) -> int:
        """Cells that restoring takes of the full cache; 0 of states alone."""
        full = next((part for part in self.parts if isinstance(part, AttentionState)), None)
        return 0 if full is None else sum(each.pos.size for each in full.streams if each)
