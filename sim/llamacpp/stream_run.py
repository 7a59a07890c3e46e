"""Planning decode steps in one stream.

From the head on, cells are taken as they come, step after step, each at the first step at which it
is looked at if it can be taken then: at a known moment (`sim.llamacpp.dues`), of which there is one
a step. Cells that are not due when it is their turn are skipped. So the cells of a whole run are
one search, as long as the head is not set back and the search does not come round.
"""

from __future__ import annotations

import numpy as np

from sim.llamacpp.batch import Decodes
from sim.llamacpp.cells import Cells, Cellset
from sim.llamacpp.dues import NEVER, OWNER_SHIFT, Contents
from sim.llamacpp.search import start_of_search
from sim.llamacpp.sizes import MAX_SEQ

#: Cells of one pass that cannot be taken at once, and are looked at one by one.
_MOST_LATE = 4096
_NONE = np.empty(0, np.intp)
_KEYS_OF_IDS = np.arange(MAX_SEQ) << OWNER_SHIFT


class StreamRun:
    """Steps tried on a stream, of which copies are changed where need be; itself never changes."""

    def __init__(self, cells: Cells, head: int, decodes: Decodes) -> None:
        dues = cells.dated()
        self._cells = cells
        self._head = head
        self._size = cells.size
        self._used = cells.used
        self._decodes = decodes
        self._width = decodes.seqs.size
        self._bounded = dues.window.bounded
        self._clock = dues.clock
        self._moment = dues.moment
        self._held = cells.held
        self._low = cells.spans.low
        self._are_copies = False
        self._taken: list[Cellset] = []
        self._lost: list[Contents] = []
        self._step = 0
        self._stopped = False

    def plan(self, n: int) -> tuple[Cellset, Contents | None]:
        """Cells of up to ``n`` steps, and what they held if not all were empty; one row a step."""
        width = self._width
        if not self._bounded:
            n = min(n, (self._size - self._used) // width)
        elif n > 1:
            self._hold_what_others_see()
        while self._step < n and not self._stopped:
            self._pass(n)
        if len(self._taken) == 1:
            taken = self._taken[0]
        else:
            taken = np.concatenate([np.empty(0, np.intp), *self._taken])
        lost = None
        if self._lost:
            lost = np.concatenate(self._lost).reshape(-1, width)
        return taken.reshape(-1, width), lost

    def _hold_what_others_see(self) -> None:
        """The windows of sequences that do not run stay where they are."""
        ends, seqs = self._cells.spans.end, self._decodes.seqs
        if np.count_nonzero(ends[seqs]) == np.count_nonzero(ends):
            return
        self._copy()
        seen = (self._moment > self._clock).nonzero()[0]
        self._moment[seen[~np.isin(self._held[seen] >> OWNER_SHIFT, seqs)]] = NEVER

    def _pass(self, n: int) -> None:
        """As many whole steps as cells once round from the head give; ends the plan if none."""
        width = self._width
        need = (n - self._step) * width
        start = start_of_search(self._head, self._used, width)
        start = 0 if start >= self._size else start
        found = self._search(start, n, need)
        steps = min(found.size, need) // width
        if steps:
            self._commit(self._until_set_back(found[: steps * width]), n)
        else:
            self._stopped = True

    def _search(self, start: int, n: int, need: int) -> Cellset:
        """The next ``need`` cells or more, in order, that steps up to ``n`` can take one by one.

        Fewer if once round there are no more, or where that would take long to find out.
        """
        size, moment, dues = self._size, self._moment, self._cells.dues
        last = self._clock + n - 1
        found = kept = _NONE
        at, end = start, size
        while True:
            stop = min(at + dues.reach_for(need - kept.size), end)
            more = (moment[at:stop] <= last).nonzero()[0]
            if at:
                more += at
            found = np.concatenate((found, more)) if found.size else more
            kept = self._without_late(found, need) if n > self._step + 1 else found
            at = stop
            if kept.size >= need or found.size > kept.size + _MOST_LATE:
                break
            if at == end:
                if end == start or not start:
                    break
                at, end = 0, start
        dues.learn((at - start) % size, found.size)
        return kept

    def _without_late(self, found: Cellset, need: int) -> Cellset:
        """``found`` without those that are come to before they are due.

        Cut short where that would take long to find out.
        """
        if not self._bounded:
            return found
        due = self._moment[found]
        late = (due > self._clock + self._step).nonzero()[0]
        if not late.size:
            return found
        if late.size > _MOST_LATE:
            found = found[: int(late[_MOST_LATE])]
            late = late[:_MOST_LATE]
        width, now = self._width, self._clock + self._step
        places: list[int] = late.tolist()
        moments: list[int] = due[late].tolist()
        skipped: list[int] = []
        for i in range(len(places)):
            taken = places[i] - len(skipped)
            if taken >= need:
                break
            if moments[i] > now + taken // width:
                skipped.append(places[i])
        if not skipped:
            return found
        kept = np.ones(found.size, np.bool_)
        kept[skipped] = False
        return found[kept]

    def _until_set_back(self, taken: Cellset) -> Cellset:
        """``taken`` up to the step after which the head would go back to 0."""
        width = self._width
        limit = self._used + 2 * width
        if taken[-1] < limit and taken[0] <= taken[-1]:
            return taken
        if self._bounded:
            limits = limit + np.cumsum(self._held[taken] < 0)[width - 1 :: width]
        else:
            limits = limit + np.arange(width, taken.size + 1, width)
        back = (taken[width - 1 :: width] + 1 > limits).nonzero()[0]
        return taken[: (int(back[0]) + 1) * width] if back.size else taken

    def _commit(self, taken: Cellset, n: int) -> None:
        """Take cells of whole steps, up to one that would purge."""
        width = self._width
        steps = taken.size // width
        lost = None
        if self._bounded:
            lost = self._held[taken]
            safe = self._safe_steps(lost)
            if safe < steps:
                self._stopped = True
                steps = safe
                taken, lost = taken[: steps * width], lost[: steps * width]
            self._lost.append(lost)
        self._taken.append(taken)
        before, self._step = self._step, self._step + steps
        if self._step < n and not self._stopped:
            self._write(taken, lost, before)

    def _safe_steps(self, lost: Contents) -> int:
        """Steps in which every sequence loses its positions in rising order, none left out.

        Then nothing is ever purged. Other orders can be harmless; they end the plan all the same.
        """
        over = (lost >= 0).nonzero()[0]
        if not over.size:
            return lost.size // self._width
        keys = lost[over]
        order = (keys >> OWNER_SHIFT).astype(np.int16).argsort(kind="stable")
        keys = keys[order]
        owners = keys >> OWNER_SHIFT
        wrong = keys != (self._low + _KEYS_OF_IDS)[owners]
        wrong[1:] &= keys[1:] - keys[:-1] != 1
        irregular = self._cells.spans.irregular
        if irregular:
            wrong |= np.isin(owners, list(irregular))
        if not np.count_nonzero(wrong):
            return lost.size // self._width
        return int(over[order[wrong]].min()) // self._width

    def _copy(self) -> None:
        self._are_copies = True
        self._moment = self._moment.copy()
        if self._bounded:
            self._held, self._low = self._held.copy(), self._low.copy()
            seqs = self._decodes.seqs
            begin = self._cells.spans.end[seqs] == 0
            self._low[seqs[begin]] = self._decodes.firsts[begin]

    def _write(self, taken: Cellset, lost: Contents | None, before: int) -> None:
        """Let the copies stand as they do after the steps from ``before`` on."""
        if not self._are_copies:
            self._copy()
        self._head = int(taken[-1]) + 1
        self._used += taken.size
        if lost is None:
            self._moment[taken] = NEVER
            return
        owners = lost[lost >= 0] >> OWNER_SHIFT
        self._used -= owners.size
        self._low += np.bincount(owners, minlength=MAX_SEQ)
        positions = self._decodes.positions(self._step)[before:]
        window = self._cells.dues.window
        seers = window.last_seer(positions) - self._decodes.firsts
        self._moment[taken] = seers.ravel() + (self._clock + 1)
        self._held[taken] = (positions + (self._decodes.seqs << OWNER_SHIFT)).ravel()
