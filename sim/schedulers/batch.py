"""Decoding sequences as one thing: they all take one token in every step.

Their lengths move with one clock. So a step costs as much as there are members for which it
changes anything: those whose policy has something to do for them, found by the residue of their
length, and those that end, found on a heap.
"""

from __future__ import annotations

import heapq
from bisect import insort
from collections.abc import Iterator
from collections.abc import Sequence as SequenceOf
from typing import overload

from sim.policies.base import Policy
from sim.sequence import Sequence, StepClock

Ranked = tuple[int, Sequence]
"""A sequence with its rank, so that lists of them sort in running order."""


class DecodeBatch(SequenceOf[Sequence]):
    """Members of ``running`` (a list in running order that others change) that decode.

    clock: moves the lengths of all members. size: number of members.
    """

    def __init__(self, policy: Policy, running: list[Sequence]) -> None:
        self.clock = StepClock()
        self.size = 0
        self._policy = policy
        self._running = running
        self._due: dict[int, list[Ranked]] = {}
        self._members: dict[int, tuple[int, list[int]]] = {}
        self._ends: list[tuple[int, int, Sequence]] = []

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[Sequence]:
        return (seq for seq in self._running if seq.follows(self.clock))

    @overload
    def __getitem__(self, index: int) -> Sequence: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sequence]: ...
    def __getitem__(self, index: int | slice) -> Sequence | list[Sequence]:
        """Members in running order; slow."""
        return list(self)[index]

    def __contains__(self, seq: object) -> bool:
        return isinstance(seq, Sequence) and seq.follows(self.clock)

    def join(self, seq: Sequence, end: int) -> None:
        """Let ``seq``, which runs and has one token to compute, decode up to ``end`` tokens."""
        period = self._policy.period
        ahead = self.clock.scheduled - seq.computed
        slots = [(residue + ahead) % period for residue in self._policy.due_residues(seq)]
        for slot in slots:
            insort(self._due.setdefault(slot, []), (seq.rank, seq))
        last = self.clock.sampled + end - seq.tokens
        self._members[seq.id] = (last, slots)
        heapq.heappush(self._ends, (last, seq.rank, seq))
        seq.follow(self.clock)
        self.size += 1

    def leave(self, seq: Sequence) -> None:
        """Take a member out."""
        for slot in self._members.pop(seq.id)[1]:
            self._due[slot].remove((seq.rank, seq))
        seq.follow(None)
        self.size -= 1

    def due(self, ahead: int = 0) -> list[Ranked]:
        """Members for which the policy may have to do something, ``ahead`` steps from now.

        In running order; not to be changed.
        """
        return self._due.get((self.clock.scheduled + ahead) % self._policy.period, [])

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
            if self._members.get(seq.id, (None,))[0] == end:
                break
            heapq.heappop(self._ends)
