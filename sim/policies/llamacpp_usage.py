"""How many cells of llama.cpp's caches are live, dead or free, from counters."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sim.llamacpp.cells import Cells
from sim.llamacpp.kv_cache import KVCache
from sim.llamacpp.recurrent import RecurrentCache
from sim.usage import Usage

Ints = NDArray[np.int64]


def usage_of_cells(cache: KVCache, sequences: int, cell_bytes: int) -> Usage:
    """How one cache is used; cells out of every window are internal until they are overwritten.

    With a stream for each of the ``sequences`` that have an id, so are the other cells of theirs.
    """
    capacity = cache.size * cache.n_stream
    used = shared = live = dedicated = 0
    for stream in cache.streams:
        used += stream.used
        shared += stream.n_shared
        live += live_cells(cache, stream)
    if cache.n_stream > 1:
        dedicated = sequences * cache.size - used
    return Usage(
        capacity=capacity,
        live=live,
        reserved=0,
        internal=used - live + dedicated,
        free=capacity - used - dedicated,
        external=0,
        shared=min(shared, live),
        cell_bytes=cell_bytes,
    )


def usage_of_states(cache: RecurrentCache) -> Usage:
    """How the states are used: one of them, snapshots included, is a cell."""
    used = cache.cells.count_used()
    return Usage(
        capacity=cache.size,
        live=used,
        reserved=0,
        internal=0,
        free=cache.size - used,
        external=0,
        shared=sum(1 for owners in cache.cells.owners if owners & (owners - 1)),
        cell_bytes=cache.memory_bytes().total // cache.size,
    )


def live_cells(cache: KVCache, cells: Cells) -> int:
    """Cells of one stream that the next token of an owner can still see."""
    if not cache.window.bounded:
        return cells.used
    if cells.n_shared:
        return cells.used - int(cells.dead().sum())
    spans = cells.refresh()
    seen = cache.window.seen_by_next(spans.end - 1)
    return int(np.add.reduce(np.minimum(spans.counts(), seen)))
