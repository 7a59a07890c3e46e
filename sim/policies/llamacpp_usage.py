"""How many cells of llama.cpp's caches are live, dead or free, from counters."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sim.llamacpp.cells import EMPTY, Cells
from sim.llamacpp.kv_cache import KVCache
from sim.llamacpp.recurrent import RecurrentCache
from sim.llamacpp.search import limits_of, usable
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


def dead_cells(cache: KVCache, cells: Cells) -> NDArray[np.bool_]:
    """Which cells of a stream are out of their owner's window and may be overwritten."""
    passed = usable(cells, limits_of(cells, cache.window), 0, cells.size)
    return passed & (cells.owner != EMPTY)


def dead_of(cache: KVCache, cells: Cells, some: Ints) -> NDArray[np.bool_]:
    """`dead_cells` of ``some`` cells of a stream of a cache with a window."""
    limit = limits_of(cells, cache.window)
    assert limit is not None
    owner = cells.owner[some]
    return (cells.pos[some] <= limit[owner]) & (owner != EMPTY)


def live_cells(cache: KVCache, cells: Cells) -> int:
    """Cells of one stream that the next token of an owner can still see."""
    if not cache.window.bounded:
        return cells.used
    if cells.n_shared:
        return cells.used - int(dead_cells(cache, cells).sum())
    spans = cells.refresh()
    return int(np.minimum(spans.count, cache.window.seen_by_next(spans.hi)).sum())
