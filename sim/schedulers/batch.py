"""Decoding sequences as one thing: they all take one token in every step.

Their lengths move with one clock. So a step costs as much as there are members for which it
changes anything: those whose policy has something to do for them, found by the residue of their
length, and those that end, found on a heap.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections.abc import Collection, Iterator
from collections.abc import Sequence as SequenceOf
from typing import overload

import numpy as np
from numpy.typing import NDArray

from sim.policies.base import Policy
from sim.schedulers.calendar import Agenda, Calendar, Ranked
from sim.sequence import Sequence, StepClock


class _Member:
    """What is known of a member since it joined. behind: how much shorter than the clock it is."""

    def __init__(self, end: int, residues: Collection[int], behind: int) -> None:
        self.end = end
        self.residues = residues
        self.behind = behind


class DecodeBatch(SequenceOf[Sequence]):
    """Running sequences that decode, in running order.

    clock: moves the lengths of all members. size: number of members. version: another one whenever
    members have come or gone. newcomers: who joined since somebody last emptied this list, some of
    whom may have left again.
    """

    def __init__(self, policy: Policy) -> None:
        self.clock = StepClock()
        self.size = 0
        self.version = 0
        self.newcomers: list[Sequence] = []
        self._policy = policy
        self._order: list[Sequence] = []
        self._ranks: list[int] = []
        self._lags: list[int] = []
        """How much shorter than the clock each of them is."""
        self._lag_array: NDArray[np.int64] = np.empty(0, np.int64)
        self._lag_version = 0
        self._calendar = Calendar(policy.period)
        self._members: dict[int, _Member] = {}
        self._ends: list[tuple[int, int, Sequence]] = []
        self._behind = 0
        self._squares = 0
        self._least: int | None = None
        """The least lag, if it is known."""

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[Sequence]:
        return iter(self._order)

    @overload
    def __getitem__(self, index: int) -> Sequence: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sequence]: ...
    def __getitem__(self, index: int | slice) -> Sequence | list[Sequence]:
        """Members in running order."""
        return self._order[index]

    def __contains__(self, seq: object) -> bool:
        return isinstance(seq, Sequence) and seq.follows(self.clock)

    def join(self, seq: Sequence, end: int) -> None:
        """Let ``seq``, which runs and has one token to compute, decode up to ``end`` tokens."""
        behind = self.clock.scheduled - seq.computed
        residues = self._policy.due_residues(seq)
        self._calendar.add(seq.rank, seq, residues, behind)
        last = self.clock.sampled + end - seq.tokens
        self._members[seq.id] = _Member(last, residues, behind)
        heapq.heappush(self._ends, (last, seq.rank, seq))
        self._behind += behind
        self._squares += behind * behind
        if self._least is not None and behind < self._least:
            self._least = behind
        seq.follow(self.clock)
        self.newcomers.append(seq)
        place = bisect_left(self._ranks, seq.rank)
        self._ranks.insert(place, seq.rank)
        self._order.insert(place, seq)
        self._lags.insert(place, behind)
        self.size += 1
        self.version += 1

    def leave(self, seq: Sequence) -> None:
        """Take a member out."""
        member = self._members.pop(seq.id)
        behind = member.behind
        self._calendar.remove(seq.rank, seq, member.residues, behind)
        self._behind -= behind
        self._squares -= behind * behind
        if behind == self._least:
            self._least = None
        seq.follow(None)
        place = bisect_left(self._ranks, seq.rank)
        del self._ranks[place], self._order[place], self._lags[place]
        self.size -= 1
        self.version += 1

    # Lengths of the members: tokens that are computed, or that the running step computes.

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Each of them, in running order."""
        if self._lag_version != self.version:
            self._lag_array = np.array(self._lags, dtype=np.int64)
            self._lag_version = self.version
        return self.clock.scheduled - self._lag_array

    @property
    def context(self) -> int:
        """Their sum."""
        return self.size * self.clock.scheduled - self._behind

    @property
    def squares(self) -> int:
        """The sum of their squares."""
        now = self.clock.scheduled
        return now * (self.size * now - 2 * self._behind) + self._squares

    @property
    def longest(self) -> int:
        """The longest of them; there must be a member."""
        if self._least is None:
            self._least = min(self._lags)
        return self.clock.scheduled - self._least

    # Who is due, and who ends.

    def due(self, ahead: int = 0) -> list[Ranked]:
        """Members for which the policy may have to do something, ``ahead`` steps from now.

        In running order; not to be changed.
        """
        return self._calendar.due(self.clock.scheduled + ahead)

    def agenda(self, steps: int, begin: bool) -> Agenda:
        """The members that are due in the next ``steps`` steps, see `Calendar.agenda`."""
        return self._calendar.agenda(self.clock.scheduled, steps, begin)

    def steps_to_end(self) -> int:
        """Steps until the first member has its last token; there must be a member."""
        self._skip_departed()
        return self._ends[0][0] - self.clock.sampled

    def ended(self) -> list[Ranked]:
        """Members that have their last token now, in running order."""
        ended: list[Ranked] = []
        self._skip_departed()
        while self._ends and self._ends[0][0] <= self.clock.sampled:
            _, rank, seq = heapq.heappop(self._ends)
            # Who left and came back in time has the same end twice.
            if not ended or ended[-1][1] is not seq:
                ended.append((rank, seq))
            self._skip_departed()
        return ended

    def _skip_departed(self) -> None:
        """Let the first end be one of a member: who left early has not taken his end along."""
        while self._ends:
            end, _, seq = self._ends[0]
            member = self._members.get(seq.id)
            if member is not None and member.end == end:
                break
            heapq.heappop(self._ends)
