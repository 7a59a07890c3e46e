"""Finding cells for new tokens: ``llama_kv_cache::find_slot`` on arrays instead of cell by cell.

Which cells can be taken is known beforehand (`sim.llamacpp.dues`).
"""

from __future__ import annotations

import numpy as np

from sim.llamacpp.cells import Cells, Cellset
from sim.llamacpp.dues import VACANT


def start_of_search(head: int, used: int, n: int) -> int:
    """Where to look first for ``n`` cells: at the head, or at 0 if much before the head is free."""
    return 0 if head > used + 2 * n else head


def find_scattered(cells: Cells, head: int, n: int) -> Cellset | None:
    """The next ``n`` cells that can be taken, from ``head`` on, round the end; None if too few."""
    size = cells.size
    dues = cells.dated()
    if n > size or (not dues.window.bounded and n > size - cells.used):
        return None
    start = 0 if head >= size else head
    found: list[Cellset] = []
    missing, looked_at = n, 0
    for begin, end in ((start, size), (0, start)):
        at = begin
        while at < end and missing:
            stop = min(at + dues.reach_for(missing), end)
            taken = dues.can_be_taken(at, stop).nonzero()[0]
            if taken.size > missing:
                taken = taken[:missing]
                looked_at += int(taken[-1]) + 1
            else:
                looked_at += stop - at
            if at:
                taken += at
            found.append(taken)
            missing -= taken.size
            at = stop
    dues.learn(looked_at, n - missing)
    if missing:
        return None
    return found[0] if len(found) == 1 else np.concatenate(found)


def find_contiguous(cells: Cells, head: int, n: int) -> Cellset | None:
    """The next ``n`` consecutive cells that can be taken, not reaching over the end; or None.

    First from ``head`` to the end, then from 0; there a run may begin before the head only, but
    reach beyond it.
    """
    size = cells.size
    if n > size:
        return None
    head = 0 if head >= size else head
    free = cells.dated().can_be_taken(0, size)
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
    empty = cells.held == VACANT
    changes = (empty[1:] != empty[:-1]).nonzero()[0]
    bounds = np.empty(changes.size + 2, np.intp)
    bounds[0], bounds[-1] = 0, cells.size
    bounds[1:-1] = changes + 1
    rows = (bounds[1:] - bounds[:-1])[0 if empty[0] else 1 :: 2]
    return int(rows.max()) if rows.size else 0
