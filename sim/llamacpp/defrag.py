"""Closing holes between used cells, as the engine did it until August 2025, and one way beyond.

``llama_kv_cache_unified::init_update`` looked at every decode how large a share of the cells up to
the highest used one was empty, and above ``defrag_thold`` moved cells from the end into the holes
(``defrag_prepare``); the first tokens that then came went behind them. It was taken out when
tokens no longer needed consecutive cells (llama.cpp #15473). What it never did, and #13497 asks
for, is to move the cells of each sequence together: here that is
`sim.llamacpp.sizes.Defrag.by_sequence`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sim.llamacpp.cells import EMPTY, Cells, Cellset
from sim.llamacpp.sizes import CELL_PAD

#: Fewer cells than this are never looked at.
SMALLEST = 2048


class Moves(NamedTuple):
    """``dst[i]`` takes what ``src[i]`` held; all are read before any is written."""

    src: Cellset
    dst: Cellset


def is_fragmented(cells: Cells, threshold: float) -> bool:
    """Whether more than that share is empty, of the cells up to the highest used one.

    One pad counts as used. In single precision, as the engine computes it.
    """
    top = cells.used_max_p1
    if top < SMALLEST:
        return False
    share = np.float32(1) - np.float32(cells.used + CELL_PAD) / np.float32(top)
    return bool(share > np.float32(threshold))


def moves_into_holes(cells: Cells, most: int) -> Moves:
    """Rows of cells from the end into the holes from the start on; at most ``most`` rows.

    A hole gets the last cells that are left, in their order; those that do not lie in one row take
    several moves.
    """
    used = cells.owner[: cells.used_max_p1] != EMPTY
    edges = np.flatnonzero(np.diff(used[: cells.used], prepend=True, append=True))
    behind = np.flatnonzero(used[cells.used :]) + cells.used
    starts, sizes = edges[::2], edges[1::2] - edges[::2]
    # Which of the cells behind go where: hole by hole, the last ones first.
    filled = np.cumsum(sizes)
    within = np.arange(behind.size) - np.repeat(filled - sizes, sizes)
    source = behind[np.repeat(behind.size - filled, sizes) + within]
    begins = (within == 0) | (np.diff(source, prepend=-1) != 1)
    rows = int(np.searchsorted(np.cumsum(begins), most, side="right"))
    return Moves(source[:rows], (np.repeat(starts, sizes) + within)[:rows])


def moves_by_sequence(cells: Cells) -> Moves:
    """All cells to the start: owner by owner as they first appear, each by position.

    Shared cells count as an owner of their own.
    """
    held = np.flatnonzero(cells.owner != EMPTY)
    owners, first, which = np.unique(cells.owner[held], return_index=True, return_inverse=True)
    rank = np.empty(owners.size, np.intp)
    rank[np.argsort(first)] = np.arange(owners.size)
    source = held[np.lexsort((cells.pos[held], rank[which]))]
    target = np.arange(held.size)
    moved = source != target
    return Moves(source[moved], target[moved])
