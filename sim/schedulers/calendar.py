"""Which decoding sequences a policy has something to do for, and when."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable

from sim.sequence import Sequence

Ranked = tuple[int, Sequence]
"""A sequence with its rank, so that lists of them sort in running order."""

Due = tuple[int, int, list[Ranked]]
"""Steps from now, how many are due then on account of one residue, and who is due at all."""


class Calendar:
    """Sequences whose lengths rise together, by the steps in which they are due.

    A sequence is due when its length modulo ``period`` is one of its residues. Time is the length
    of a sequence that began with the first step; others are a fixed number of tokens apart.
    """

    def __init__(self, period: int) -> None:
        self._period = period
        self._slots: dict[int, list[Ranked]] = {}
        self._taken: list[int] = []
        """The slots in which anybody is, rising."""
        self._numbers: dict[int, dict[int, int]] = {}
        """By residue: how many there are in each slot on its account."""

    def add(self, rank: int, seq: Sequence, residues: Iterable[int], behind: int) -> None:
        """Enter ``seq``, whose length is ``behind`` less than the time."""
        for residue in residues:
            slot = (residue + behind) % self._period
            due = self._slots.get(slot)
            if due is None:
                self._slots[slot] = [(rank, seq)]
                insort(self._taken, slot)
            else:
                insort(due, (rank, seq))
            numbers = self._numbers.setdefault(residue, {})
            numbers[slot] = numbers.get(slot, 0) + 1

    def remove(self, rank: int, seq: Sequence, residues: Iterable[int], behind: int) -> None:
        """Take ``seq`` out; everything as it was when it was entered."""
        for residue in residues:
            slot = (residue + behind) % self._period
            due = self._slots[slot]
            due.remove((rank, seq))
            if not due:
                del self._slots[slot]
                self._taken.remove(slot)
            self._numbers[residue][slot] -= 1

    def due(self, time: int) -> list[Ranked]:
        """Everybody who is due at ``time``, in the order of their ranks; not to be changed."""
        return self._slots.get(time % self._period) or []

    def agenda(self, time: int, residue: int) -> list[Due]:
        """Who is due in the ``period`` steps from ``time`` on, in order.

        Steps at which nobody is due are left out.
        """
        now, period, taken = time % self._period, self._period, self._taken
        numbers, slots = self._numbers.get(residue, {}), self._slots
        first = bisect_left(taken, now)
        agenda = [(slot - now, numbers.get(slot, 0), slots[slot]) for slot in taken[first:]]
        agenda += [
            (slot - now + period, numbers.get(slot, 0), slots[slot]) for slot in taken[:first]
        ]
        return agenda
