"""Which decoding sequences a policy has something to do for, and when."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable

from sim.sequence import Sequence

Ranked = tuple[int, Sequence]
"""A sequence with its rank, so that lists of them sort in running order."""


class Agenda:
    """Who is due in the next steps.

    steps: those in which anybody is, counted from now, rising. due: who is, in each of them, in
    running order; not to be changed.
    """

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.due: list[list[Ranked]] = []


class _Slot:
    """Sequences that are due together. begin: those that are on account of residue 0."""

    def __init__(self) -> None:
        self.due: list[Ranked] = []
        self.begin: list[Ranked] = []


class Calendar:
    """Sequences whose lengths rise together, by the steps in which they are due.

    A sequence is due when its length modulo ``period`` is one of its residues. Time is the length
    of a sequence that began with the first step; others are a fixed number of tokens apart.
    """

    def __init__(self, period: int) -> None:
        self._period = period
        self._places: list[int] = []
        """The times, modulo the period, at which anybody is due; rising."""
        self._slots: list[_Slot] = []
        """Who is due at each of them."""

    def add(self, rank: int, seq: Sequence, residues: Iterable[int], behind: int) -> None:
        """Enter ``seq``, whose length is ``behind`` less than the time."""
        for residue in residues:
            place = (residue + behind) % self._period
            index = bisect_left(self._places, place)
            if index == len(self._places) or self._places[index] != place:
                self._places.insert(index, place)
                self._slots.insert(index, _Slot())
            slot = self._slots[index]
            ranked = (rank, seq)
            insort(slot.due, ranked)
            if residue == 0:
                insort(slot.begin, ranked)

    def remove(self, rank: int, seq: Sequence, residues: Iterable[int], behind: int) -> None:
        """Take ``seq`` out; everything as it was when it was entered."""
        for residue in residues:
            index = bisect_left(self._places, (residue + behind) % self._period)
            slot = self._slots[index]
            ranked = (rank, seq)
            slot.due.remove(ranked)
            if residue == 0:
                slot.begin.remove(ranked)
            if not slot.due:
                del self._places[index], self._slots[index]

    def due(self, time: int) -> list[Ranked]:
        """Everybody who is due at ``time``, in the order of their ranks; not to be changed."""
        place = time % self._period
        index = bisect_left(self._places, place)
        if index == len(self._places) or self._places[index] != place:
            return []
        return self._slots[index].due

    def agenda(self, time: int, steps: int, begin: bool) -> Agenda:
        """Who is due in the ``steps`` steps from ``time`` on.

        begin: only those whose length is a multiple of the period then.
        """
        now, period = time % self._period, self._period
        places, slots, count = self._places, self._slots, len(self._places)
        agenda = Agenda()
        index = bisect_left(places, now)
        while count:
            if index == count:
                index = 0
                now -= period
            step = places[index] - now
            if step >= steps:
                break
            due = slots[index].begin if begin else slots[index].due
            if due:
                agenda.steps.append(step)
                agenda.due.append(due)
            index += 1
        return agenda
