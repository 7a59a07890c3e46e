"""Finding cells for new tokens: ``llama_kv_cache::find_slot`` on arrays instead of cell by cell.

A cell can be taken if it is empty or, in a cache with a window, if one sequence alone holds it at a
position that its next token will not see. ``limit`` says so for all owners at once: a cell can be
taken if its position is at most ``limit[owner]``; None stands for a cache without a window.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sim.llamacpp.cells import EMPTY, NOBODY, SHARED, Cells, Cellset, Mask
from sim.llamacpp.sizes import MAX_SEQ
from sim.llamacpp.spans import Spans
from sim.llamacpp.window import Window

Limits = NDArray[np.int32]

_NONE = np.empty(0, np.intp)


def limits_of(cells: Cells, window: Window) -> Limits | None:
    """For every owner, the highest position whose cell its next token no longer needs.

    Indexed by `Cells.owner` as it stands: the negative codes reach the last three elements.
    """
    if not window.bounded:
        return None
    limit = np.empty(MAX_SEQ + 3, np.int32)
    window.last_masked_after(cells.refresh().hi, out=limit[:MAX_SEQ])
    limit[EMPTY] = -1
    limit[SHARED] = limit[NOBODY] = -2
    return limit


def usable(cells: Cells, limit: Limits | None, start: int, stop: int) -> Mask:
    """Which of the cells [start, stop) can be taken."""
    if limit is None:
        return cells.owner[start:stop] == EMPTY
    where = cells.whereabouts
    if where is not None and where.is_open_known:
        return where.open[start:stop]
    return searched(cells, limit, start, stop)


def searched(cells: Cells, limit: Limits, start: int, stop: int) -> Mask:
    """The same, found out cell by cell."""
    mask: Mask = cells.pos[start:stop] <= limit.take(cells.owner[start:stop], mode="wrap")
    return mask


def find_open(cells: Cells, limit: Limits) -> None:
    """Find out which cells can be taken, where that is kept up and not known."""
    where, spans = cells.whereabouts, cells.spans
    if where is not None and where.window and spans.all_regular and not spans.moved:
        where.refresh(lambda: usable(cells, limit, 0, cells.size))


def start_of_search(head: int, used: int, n: int) -> int:
    """Where to look first for ``n`` cells: at the head, or at 0 if much before the head is free."""
    return 0 if head > used + 2 * n else head


def find_scattered(cells: Cells, limit: Limits | None, head: int, n: int) -> Cellset | None:
    """The next ``n`` cells that can be taken, from ``head`` on, round the end; None if too few."""
    size, owner = cells.size, cells.owner
    if n > size or (limit is None and n > size - cells.used):
        return None
    head = 0 if head >= size else head
    if limit is not None:
        find_open(cells, limit)
    if limit is None and owner[head] == EMPTY:
        if n == 1:
            return np.array([head])
        if head + n <= size and not np.count_nonzero(owner[head : head + n] != EMPTY):
            return np.arange(head, head + n)
    found, missing = [], n
    # What the fill makes likely to be enough; then what the cells seen so far do.
    free = size - (cells.used if limit is None else _seen(cells.spans, limit))
    width = 3 * n * size // (2 * max(free, n)) + 512
    for begin, end in ((head, size), (0, head)):
        start = begin
        while start < end:
            stop = min(start + width, end)
            taken = usable(cells, limit, start, stop).nonzero()[0][:missing]
            if taken.size:
                found.append(taken + start)
                missing -= taken.size
                if missing == 0:
                    return found[0] if len(found) == 1 else np.concatenate(found)
            width = min(2 * width, missing * width // max(taken.size, 1) + missing // 4 + 64)
            start = stop
    return None


def _seen(spans: Spans, limit: Limits) -> int:
    """About how many cells cannot be taken: each sequence's positions above its limit."""
    return int(np.minimum(spans.count, spans.hi - limit[:MAX_SEQ]).sum())


def find_contiguous(cells: Cells, limit: Limits | None, head: int, n: int) -> Cellset | None:
    """The next ``n`` consecutive cells that can be taken, not reaching over the end; or None.

    First from ``head`` to the end, then from 0; there a run may begin before the head only, but
    reach beyond it.
    """
    size = cells.size
    if n > size:
        return None
    head = 0 if head >= size else head
    free = usable(cells, limit, 0, size)
    for begin, last_start in ((head, size), (0, head)):
        edges = np.flatnonzero(np.diff(free[begin:], prepend=False, append=False)) + begin
        starts, stops = edges[::2], edges[1::2]
        fits = np.flatnonzero((stops - starts >= n) & (starts < last_start))
        if fits.size:
            start = int(starts[fits[0]])
            return np.arange(start, start + n)
    return None


def largest_free_run(cells: Cells) -> int:
    """The longest row of consecutive empty cells."""
    empty = cells.owner == EMPTY
    changes = (empty[1:] != empty[:-1]).nonzero()[0]
    bounds = np.empty(changes.size + 2, np.intp)
    bounds[0], bounds[-1] = 0, cells.size
    bounds[1:-1] = changes + 1
    rows = (bounds[1:] - bounds[:-1])[0 if empty[0] else 1 :: 2]
    return int(rows.max()) if rows.size else 0
