"""Planning decode steps in one stream of a cache with a window.

A cell is worth a number: the first step at which it can be taken (0 if empty or already out of its
owner's window; the owner's window moves on by one position a step if it is among the sequences
that run). From the head on, a row of cells with numbers no higher than the steps that reach them
is taken as it stands, whatever its length; cells that are not yet due are skipped.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from sim.llamacpp.batch import Decodes
from sim.llamacpp.cells import EMPTY, Cells, Cellset
from sim.llamacpp.search import Limits, find_open, limits_of, start_of_search
from sim.llamacpp.sizes import MAX_SEQ
from sim.llamacpp.spans import Ids, Positions
from sim.llamacpp.window import Window

#: Cells of one pass that cannot be taken at once, and are looked at one by one.
_MOST_LATE = 4096

Ints = NDArray[np.int64]


class WindowedRun:
    """Steps tried on one stream, of which copies are changed where need be; itself never changes.

    Cells are looked at in the order of the search, as far as the steps reach.
    """

    def __init__(self, cells: Cells, window: Window, head: int, decodes: Decodes) -> None:
        limits = limits_of(cells, window)
        assert limits is not None
        self._cells = cells
        self._window = window
        self._head = head
        self._size = cells.size
        self._used = cells.used
        self._seqs, self._first = decodes
        self._width = self._seqs.size
        self._owner = cells.owner
        self._pos = cells.pos
        self._are_copies = False
        self._limits = self._limits_at(0, limits)
        self._lowest: Ints | None = None
        self._taken: list[Cellset] = []
        self._lost: list[Ids] = []
        self._step = 0
        self._stopped = False

    def _limits_at(self, step: int, limits: Limits | None = None) -> Limits:
        """For every owner, the highest position that no token from ``step`` on needs.

        What the next token of every sequence that runs is at moves; the others stay where they are.
        """
        limits = self._limits.copy() if limits is None else limits
        at = np.empty(self._width, np.int32)
        self._window.last_masked_after(self._first + (step - 1), out=at)
        limits[self._seqs] = at
        return limits

    def _lowest_each(self) -> Ints:
        """The lowest position of every sequence before the step that is planned next."""
        if self._lowest is None:
            spans = self._cells.spans
            self._lowest = spans.lowest_each()
            new = spans.count[self._seqs] == 0
            self._lowest[self._seqs[new]] = self._first[new]
        return self._lowest

    def _due_of(self, owner: Ids, pos: Positions) -> Ints:
        """The first step, from 0 on, at which cells at ``pos`` of running ``owner`` can be taken.

        Or of any other ``owner`` if it can be taken at all.
        """
        wait = pos - self._limits[owner]
        if self._window.kind == "chunked":
            n = self._window.n
            first = np.zeros(MAX_SEQ + 3, np.int64)
            first[self._seqs] = self._first
            wait = np.where(wait > 0, (pos // n + 1) * n - first[owner], 0)
        return np.maximum(wait, 0)

    def plan(self, n: int) -> tuple[Cellset, Ids]:
        """Cells of up to ``n`` steps and whose they were, one row a step."""
        while self._step < n and not self._stopped:
            start = start_of_search(self._head, self._used, self._width)
            start = 0 if start >= self._size else start
            if not self._pass(start, n) and not self._stopped:
                self._single(start, n)
        if len(self._taken) == 1:
            cells, lost = self._taken[0], self._lost[0]
        else:
            cells = np.concatenate([np.empty(0, np.intp), *self._taken])
            lost = np.concatenate([np.empty(0, np.int16), *self._lost])
        return cells.reshape(-1, self._width), lost.reshape(-1, self._width)

    def _pass(self, start: int, n: int) -> bool:
        """As many whole steps as cells from ``start`` to the end give; False if not even one."""
        need = (n - self._step) * self._width
        candidates = self._candidates(n)
        reach = 8 * need + 256
        while True:
            stop = min(start + reach, self._size)
            found, late, due = candidates(start, stop)
            if late.size:
                found = self._without_late(found, late, due, need)
            if found.size >= need or stop == self._size or late.size > _MOST_LATE:
                break
            reach *= 4
        steps = min(found.size, need) // self._width
        if steps == 0:
            return False
        return self._commit(self._until_rewind(found[: steps * self._width]), n)

    def _candidates(self, n: int) -> Callable[[int, int], tuple[Cellset, Cellset, Cellset]]:
        """What finds, between two cells, those that can be taken before step ``n``.

        It answers the cells, the places among them of those that cannot be taken at once, and the
        step at which each of these can.
        """
        where, spans = self._cells.whereabouts, self._cells.spans
        if where is not None and where.window and not self._step:
            find_open(self._cells, self._limits)
            if where.keeps_up(spans, n):
                late, due = where.passed_in_run(spans, self._seqs, self._first, n - 1)
                order = late.argsort()
                return partial(where.candidates, late[order], due[order] + 1)
        now = self._limits_at(self._step) if self._step else self._limits
        last = self._limits_at(n - 1) if n > 1 else now
        return partial(self._searched, now, last)

    def _searched(
        self, now: Limits, last: Limits, start: int, stop: int
    ) -> tuple[Cellset, Cellset, Cellset]:
        owner, pos = self._owner[start:stop], self._pos[start:stop]
        found = (pos <= last.take(owner, mode="wrap")).nonzero()[0]
        owner, pos = owner[found], pos[found]
        late = (pos > now.take(owner, mode="wrap")).nonzero()[0]
        return found + start, late, self._due_of(owner[late], pos[late])

    def _without_late(self, found: Cellset, late: Cellset, due: Cellset, need: int) -> Cellset:
        """``found`` without those, of the places ``late``, that are come to before they are due.

        Cut short where that would take long to find out.
        """
        width = self._width
        skipped: list[int] = []
        for place, step in zip(late[:_MOST_LATE].tolist(), due.tolist(), strict=False):
            taken = place - len(skipped)
            if taken >= need:
                break
            if step > self._step + taken // width:
                skipped.append(place)
        if late.size > _MOST_LATE:
            found = found[: int(late[_MOST_LATE])]
        return np.delete(found, skipped) if skipped else found

    def _until_rewind(self, taken: Cellset) -> Cellset:
        """``taken``, which rise, up to the step after which the head would go back to 0."""
        width = self._width
        if taken[-1] < self._used + 2 * width:
            return taken
        used = self._used + np.cumsum(self._owner[taken] == EMPTY)[width - 1 :: width]
        heads = taken[width - 1 :: width] + 1
        back = (heads > used + 2 * width).nonzero()[0]
        return taken[: (int(back[0]) + 1) * width] if back.size else taken

    def _single(self, start: int, n: int) -> None:
        """One step whose search goes round the end; ends the plan if there is no room."""
        can = (self._pos <= self._limits_at(self._step).take(self._owner, mode="wrap")).nonzero()[0]
        split = int(np.searchsorted(can, start))
        taken = np.concatenate((can[split:], can[:split]))[: self._width]
        if taken.size < self._width or not self._commit(taken, n):
            self._stopped = True

    def _commit(self, taken: Cellset, n: int) -> bool:
        """Take cells of whole steps, up to one that would purge; False if that is the first."""
        width = self._width
        lost = self._owner[taken]
        steps = self._safe_steps(taken, lost)
        if steps < taken.size // width:
            self._stopped = True
            taken, lost = taken[: steps * width], lost[: steps * width]
            if steps == 0:
                return False
        self._taken.append(taken)
        self._lost.append(lost)
        before, self._step = self._step, self._step + steps
        if self._step < n and not self._stopped:
            self._write(taken, lost, before, steps)
        return True

    def _write(self, taken: Cellset, lost: Ids, before: int, steps: int) -> None:
        """Let the copies stand as they do after steps ``before .. before + steps - 1``."""
        if not self._are_copies:
            self._owner, self._pos = self._owner.copy(), self._pos.copy()
            self._are_copies = True
        when = before + np.arange(steps)[:, None]
        lowest = self._lowest_each()
        lowest += np.bincount(lost[lost >= 0], minlength=MAX_SEQ)
        self._owner[taken] = np.tile(self._seqs, steps)
        self._pos[taken] = (self._first + when).ravel()
        self._used += int(np.count_nonzero(lost == EMPTY))
        self._head = int(taken[-1]) + 1

    def _safe_steps(self, taken: Cellset, lost: Ids) -> int:
        """Steps in which every sequence loses its positions in rising order, none left out.

        Then nothing is ever purged. Other orders can be harmless; they end the plan all the same.
        """
        width = self._width
        over = (lost >= 0).nonzero()[0]
        if not over.size:
            return taken.size // width
        order = over[lost[over].argsort(kind="stable")]
        owner, pos = lost[order], self._pos[taken[order]]
        wrong = pos[1:] - pos[:-1] != 1
        breaks = (owner[1:] != owner[:-1]).nonzero()[0]
        wrong[breaks] = False
        begins = np.zeros(breaks.size + 1, np.intp)
        begins[1:] = breaks + 1
        losers = owner[begins]
        wrong_first = pos[begins] != self._lowest_each()[losers]
        if self._cells.spans.irregular:
            wrong_first |= np.isin(losers, list(self._cells.spans.irregular))
        found = [order[1:][wrong], order[begins][wrong_first]]
        return min([taken.size, *[int(each.min()) for each in found if each.size]]) // width
