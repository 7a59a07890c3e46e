"""Many decode steps of the same sequences at once, cell for cell as single steps would go.

A step places one token of each of B sequences. In one stream, the cells taken by successive steps
are simply the next cells that can be taken, so the whole run is one search. What can interrupt it:
the head goes back to 0 (at most once: afterwards no cell before the head is free), the end of the
cells is reached, or in a cache with a window an overwritten cell would make the cache purge
positions. The first two are handled here; before the last, and before a step that finds no room,
the plan ends.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sim.llamacpp.batch import Decodes
from sim.llamacpp.cells import EMPTY, Cells
from sim.llamacpp.search import find_scattered, start_of_search
from sim.llamacpp.sizes import MAX_SEQ
from sim.llamacpp.spans import Ids
from sim.llamacpp.windowed_run import WindowedRun

if TYPE_CHECKING:
    from sim.llamacpp.kv_cache import KVCache

Table = NDArray[np.intp]


class CellRun:
    """A plan: step j writes position ``firsts[b] + j`` of sequence ``seqs[b]`` to ``cells[j, b]``.

    decodes: the first step. lost: whose cell that was (`EMPTY` if nobody's), shape as ``cells``;
    None where all were empty.
    """

    __slots__ = ("cells", "decodes", "lost", "steps")

    def __init__(self, decodes: Decodes, cells: Table, lost: Ids | None = None) -> None:
        self.decodes = decodes
        self.cells = cells
        self.lost = lost
        self.steps = len(cells)


def plan_decode_run(cache: KVCache, decodes: Decodes, n: int) -> CellRun:
    """Up to ``n`` steps; fewer, possibly 0, where the next one has to be made singly.

    The sequences are distinct, their ids valid. No step is planned where a sequence's next position
    does not follow what it has here, or where B > 1 tokens need consecutive cells. Nothing changes.
    """
    width = decodes.seqs.size
    nothing = CellRun(decodes, np.empty((0, width), np.intp))
    if n <= 0 or width == 0 or (cache.slots == "contiguous" and width > 1 and cache.n_stream == 1):
        return nothing
    if cache.n_stream == 1:
        following = cache.streams[0].refresh().hi[decodes.seqs] + 1
    else:
        following = np.array(cache.next_positions(decodes.seqs.tolist()))
    others = following != decodes.firsts
    if np.count_nonzero(others) and following[others].any():
        return nothing
    if cache.n_stream == 1:
        return CellRun(decodes, *_plan_stream(cache, 0, decodes, n))
    lanes = [
        _plan_stream(cache, seq, Decodes(decodes.seqs[b : b + 1], decodes.firsts[b : b + 1]), n)
        for b, seq in enumerate(decodes.seqs.tolist())
    ]
    steps = min(len(taken) for taken, _ in lanes)
    cells = np.concatenate([taken[:steps] for taken, _ in lanes], axis=1)
    whose = [each[:steps] for _, each in lanes if each is not None]
    return CellRun(decodes, cells, np.concatenate(whose, axis=1) if whose else None)


def _plan_stream(cache: KVCache, stream: int, decodes: Decodes, n: int) -> tuple[Table, Ids | None]:
    cells, head = cache.streams[stream], cache.heads[stream]
    if cache.window.bounded:
        return WindowedRun(cells, cache.window, head, decodes).plan(n)
    return _free_in_order(cells, head, decodes.seqs.size, n), None


def _free_in_order(cells: Cells, head: int, width: int, n: int) -> Table:
    """The empty cells that up to ``n`` steps of ``width`` tokens take, one row a step."""
    steps = min(n, (cells.size - cells.used) // width)
    need = steps * width
    start = start_of_search(0 if head >= cells.size else head, cells.used, width)
    if not need:
        return np.empty((0, width), np.intp)
    order = find_scattered(cells, None, start, need)
    assert order is not None
    back = _goes_back(order, cells.used, width) if start else order[:0]
    if back.size:
        # Only cells ahead of the start can lie that far: from there on those before it are next.
        kept = int(back[0]) * width
        free = (cells.owner == EMPTY).nonzero()[0]
        split = int(np.searchsorted(free, start))
        ahead, before = free[split:], free[:split]
        order = np.concatenate((ahead[:kept], before, ahead[kept:]))[:need]
    return order.reshape(steps, width)


def _goes_back(order: Table, used: int, width: int) -> Table:
    """After which steps the head, one past the step's last cell, goes back to 0.

    That is where it lies far beyond the cells then used; after the last step it does not matter.
    """
    if order[-1] < used + 3 * width and order[0] <= order[-1]:
        return order[:0]
    heads = order[width - 1 : -1 : width] + 1
    done = np.arange(1, heads.size + 1)
    return done[heads > used + (done + 2) * width]


def apply_decode_run(cache: KVCache, plan: CellRun, steps: int) -> None:
    """Carry out the first ``steps`` steps of a plan made for the cache as it is."""
    if steps == 0:
        return
    if not 0 < steps <= plan.steps:
        raise ValueError(f"a plan of {plan.steps} steps cannot be carried out for {steps}")
    seqs, firsts = plan.decodes
    taken = plan.cells[:steps]
    lost = None if plan.lost is None else plan.lost[:steps]
    if cache.n_stream == 1:
        _write(cache.streams[0], seqs, firsts, taken, lost)
        cache.heads[0] = int(taken[-1, -1]) + 1
        return
    for b, seq in enumerate(seqs.tolist()):
        lane = slice(b, b + 1)
        whose = None if lost is None else lost[:, lane]
        _write(cache.streams[seq], seqs[lane], firsts[lane], taken[:, lane], whose)
        cache.heads[seq] = int(taken[-1, b]) + 1


def _write(
    cells: Cells, seqs: Table, firsts: NDArray[np.int64], taken: Table, lost: Ids | None
) -> None:
    """Write tokens to cells, a later step over an earlier one; counters move by closed form."""
    steps, where = len(taken), cells.whereabouts
    if where is not None and where.is_open_known:
        where.will_grow(cells.spans, seqs, firsts, steps)
    if steps == 1:
        cells.place(taken[0], firsts, seqs)
    else:
        pos = np.add.outer(np.arange(steps), firsts)
        owner = np.empty(taken.shape, np.int16)
        owner[:] = seqs
        # With repeated indices NumPy keeps the last value assigned, which is the last step's.
        cells.place(taken.ravel(), pos.ravel(), owner.ravel())
    spans = cells.spans
    spans.hi[seqs] = firsts + (steps - 1)
    spans.count[seqs] += steps
    if lost is None or not np.count_nonzero(lost != EMPTY):
        return
    gone = np.bincount(lost.ravel() + 1, minlength=MAX_SEQ + 1)
    cells.used -= taken.size - int(gone[EMPTY + 1])
    gone = gone[1:]
    spans.count -= gone
    spans.hi[(gone > 0) & (spans.count == 0)] = -1
