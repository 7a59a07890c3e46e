"""Planning decode steps in one stream of a cache with a window.

A cell is worth a number: the first step at which it can be taken (0 if empty or already out of its
owner's window; the owner's window moves on by one position a step if it is among the sequences
that run). From the head on, a row of cells with numbers no higher than the steps that reach them
is taken as it stands, whatever its length; cells that are not yet due are skipped as one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sim.llamacpp.cells import EMPTY, Cells
from sim.llamacpp.search import start_of_search
from sim.llamacpp.sizes import MAX_SEQ
from sim.llamacpp.window import Window

_NEVER = 2**40
#: Interruptions of one pass over the cells after which it is cut short (each costs a search).
_MOST_SKIPS = 64

Ints = NDArray[np.int64]


class WindowedRun:
    """Scratch copies of one stream, on which steps are tried; the stream itself never changes."""

    def __init__(
        self, cells: Cells, window: Window, head: int, seqs: list[int], firsts: list[int]
    ) -> None:
        spans = cells.refresh()
        self._window = window
        self._head = head
        self._used = cells.used
        self._seqs = np.array(seqs)
        self._width = len(seqs)
        self._owner = cells.owner.astype(np.int64)
        self._pos = cells.pos.astype(np.int64)
        self._lowest = spans.lo.copy()
        self._regular = spans.regular
        # What the next token of every sequence is at, and how fast that moves.
        self._next = spans.hi + 1
        self._next[self._seqs] = firsts
        self._runs = np.zeros(MAX_SEQ, np.bool_)
        self._runs[self._seqs] = True
        new = spans.count[self._seqs] == 0
        self._lowest[self._seqs[new]] = np.array(firsts)[new]
        self._due = np.full(cells.size, _NEVER, np.int64)
        self._due[self._owner == EMPTY] = 0
        held = np.flatnonzero(self._owner >= 0)
        self._due[held] = self._due_of(self._owner[held], self._pos[held])
        self._taken: list[Ints] = []
        self._lost: list[Ints] = []
        self._step = 0
        self._stopped = False

    def _due_of(self, owner: Ints, pos: Ints) -> Ints:
        """The first step at which cells at ``pos`` of ``owner`` can be taken."""
        n = self._window.n
        seen_until = pos + n if self._window.kind == "standard" else (pos // n + 1) * n
        wait = np.maximum(seen_until - self._next[owner], 0)
        return np.where(self._runs[owner] | (wait == 0), wait, _NEVER)

    def plan(self, n: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Cells of up to ``n`` steps and whose they were, one row a step."""
        while self._step < n and not self._stopped:
            start = start_of_search(self._head, self._used, self._width)
            start = 0 if start >= self._due.size else start
            if not self._pass(start, n) and not self._stopped:
                self._single(start)
        cells = np.concatenate([np.empty(0, np.int64), *self._taken])
        lost = np.concatenate([np.empty(0, np.int64), *self._lost])
        return cells.reshape(-1, self._width), lost.reshape(-1, self._width)

    def _pass(self, start: int, n: int) -> bool:
        """As many whole steps as cells from ``start`` to the end give; False if not even one."""
        room = n - self._step
        cells = start + np.flatnonzero(self._due[start:] < n)
        due = self._due[cells]
        picked: list[Ints] = []
        count = at = 0
        for _ in range(_MOST_SKIPS):
            here = due[at : at + room * self._width - count]
            late = np.flatnonzero(here > self._step + (count + np.arange(here.size)) // self._width)
            good = int(late[0]) if late.size else here.size
            picked.append(cells[at : at + good])
            count += good
            at += good
            if not late.size:
                break
            ready = np.flatnonzero(due[at:] <= self._step + count // self._width)
            if not ready.size:
                break
            at += int(ready[0])
        steps = count // self._width
        if steps == 0:
            return False
        taken = np.concatenate(picked)[: steps * self._width]
        return self._commit(self._until_rewind(taken))

    def _until_rewind(self, taken: Ints) -> Ints:
        """``taken`` up to the step after which the head would go back to 0."""
        width = self._width
        used = self._used + np.cumsum(self._owner[taken] == EMPTY)[width - 1 :: width]
        heads = taken[width - 1 :: width] + 1
        back = np.flatnonzero(heads > used + 2 * width)
        return taken[: (int(back[0]) + 1) * width] if back.size else taken

    def _single(self, start: int) -> None:
        """One step whose search goes round the end; ends the plan if there is no room."""
        can = np.flatnonzero(self._due <= self._step)
        split = int(np.searchsorted(can, start))
        taken = np.concatenate((can[split:], can[:split]))[: self._width]
        if taken.size < self._width or not self._commit(taken):
            self._stopped = True

    def _commit(self, taken: Ints) -> bool:
        """Take cells of whole steps, up to one that would purge; False if that is the first."""
        width = self._width
        lost = self._owner[taken]
        steps = self._safe_steps(taken, lost)
        if steps < taken.size // width:
            self._stopped = True
            taken, lost = taken[: steps * width], lost[: steps * width]
            if steps == 0:
                return False
        when = self._step + np.repeat(np.arange(steps), width)
        owner = np.tile(self._seqs, steps)
        pos = self._next[owner] + when
        self._owner[taken], self._pos[taken] = owner, pos
        self._due[taken] = self._due_of(owner, pos)
        self._used += int((lost == EMPTY).sum())
        self._lowest += np.bincount(lost[lost >= 0], minlength=MAX_SEQ)
        self._head = int(taken[-1]) + 1
        self._step += steps
        self._taken.append(taken)
        self._lost.append(lost)
        return True

    def _safe_steps(self, taken: Ints, lost: Ints) -> int:
        """Steps in which every sequence loses its positions in rising order, none left out.

        Then nothing is ever purged. Other orders can be harmless; they end the plan all the same.
        """
        over = np.flatnonzero(lost >= 0)
        if over.size == 0:
            return taken.size // self._width
        order = over[np.argsort(lost[over], kind="stable")]
        owner = lost[order]
        first = np.flatnonzero(np.diff(owner, prepend=-1))
        rank = np.arange(order.size) - np.repeat(first, np.diff(np.append(first, order.size)))
        fits = self._regular[owner] & (self._pos[taken[order]] == self._lowest[owner] + rank)
        return taken.size // self._width if fits.all() else int(order[~fits].min()) // self._width
