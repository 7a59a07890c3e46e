"""Work on K/V rows that ``seq_*`` calls leave for the next decode (``llama_kv_cache::update``)."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sim.llamacpp.cells import Cellset
from sim.llamacpp.errors import EngineAborts
from sim.llamacpp.sizes import AttentionRows, is_quantized


@dataclass(frozen=True, slots=True)
class StreamCopy:
    """All rows of stream ``src`` of ``cache`` go to stream ``dst``: ``cells`` rows a layer."""

    cache: str
    src: int
    dst: int
    cells: int


@dataclass(frozen=True, slots=True)
class KShift:
    """K rows of one stream to rotate: cell ``cells[i]`` by ``amounts[i]`` positions (int32)."""

    cache: str
    stream: int
    cells: Cellset
    amounts: NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class CellMoves:
    """Rows of ``cache`` to move: cell ``dst[i]`` takes what ``src[i]`` held, all at once.

    by_sequence: whether to bring sequences together; otherwise just to close holes.
    """

    cache: str
    src: Cellset
    dst: Cellset
    by_sequence: bool


@dataclass(slots=True)
class Update:
    """Work carried out before a decode, in order: copies, shifts, moves; cache by cache."""

    copies: list[StreamCopy] = field(default_factory=list)
    shifts: list[KShift] = field(default_factory=list)
    moves: list[CellMoves] = field(default_factory=list)

    def extend(self, other: Update) -> Update:
        """Add what another cache did; returns self."""
        self.copies += other.copies
        self.shifts += other.shifts
        self.moves += other.moves
        return self


def check_shiftable(cache: str, rows: AttentionRows) -> None:
    """Raise `EngineAborts` where the engine's K-shift graph cannot be built for these rows.

    Source: ``llama_kv_cache::build_rope_shift``; seen in the recordings ``kshift_*``.
    """
    call = f"decode with a K-shift pending in cache {cache!r}"
    geometry = rows.geometry
    if not geometry.rope:
        return
    if geometry.layers == 0:
        raise EngineAborts(call, "GGML_ASSERT(buffer): the cache has no layers to shift")
    if is_quantized(rows.type_k) and geometry.head_dim % 64:
        raise EngineAborts(
            call, f"null rotation tensor: K is {rows.type_k} with heads of {geometry.head_dim}"
        )
    if rows.type_k == "bf16":
        raise EngineAborts(call, "rotating bf16 rows is not implemented on the CPU")
