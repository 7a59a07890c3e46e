"""Which decoding sequences a policy has something to do for, and when."""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable

from sim.sequence import Sequence

Ranked = tuple[int, Sequence]
"""A sequence with its rank, so that lists of them sort in running order."""


class Calendar:
    """Sequences whose lengths rise together, by the steps in which they are due.

    A sequence is due when its length modulo ``period`` is one of its residues. Time is the length
    of a sequence that began with the first step; others are a fixed number of tokens apart.
    """

    def __init__(self, period: int) -> None:
        self._period = period
        self._by_residue: dict[int, dict[int, list[Ranked]]] = {}

    def add(self, rank: int, seq: Sequence, residues: Iterable[int], behind: int) -> None:
        """Enter ``seq``, whose length is ``behind`` less than the time."""
        for residue in residues:
            slots = self._by_residue.setdefault(residue, {})
            insort(slots.setdefault((residue + behind) % self._period, []), (rank, seq))

    def remove(self, rank: int, seq: Sequence, residues: Iterable[int], behind: int) -> None:
        """Take ``seq`` out; everything as it was when it was entered."""
        for residue in residues:
            self._by_residue[residue][(residue + behind) % self._period].remove((rank, seq))

    def due(self, time: int) -> list[Ranked]:
        """Everybody who is due at ``time``, in the order of their ranks; not to be changed."""
        slot = time % self._period
        found = [slots[slot] for slots in self._by_residue.values() if slots.get(slot)]
        if len(found) < 2:
            return found[0] if found else []
        return sorted(entry for entries in found for entry in entries)

    def agenda(self, time: int, residue: int | None = None) -> list[tuple[int, list[Ranked]]]:
        """Who is due in the ``period`` steps from ``time`` on: (steps from now, who), in order.

        Without a ``residue`` for any reason. Steps at which nobody is due are left out.
        """
        now, period = time % self._period, self._period
        if residue is None and len(self._by_residue) == 1:
            residue = next(iter(self._by_residue))
        if residue is not None:
            slots = self._by_residue.get(residue, {})
            return sorted([((slot - now) % period, due) for slot, due in slots.items() if due])
        taken = {slot for slots in self._by_residue.values() for slot, due in slots.items() if due}
        return [
            (ahead, self.due(time + ahead)) for ahead in sorted((s - now) % period for s in taken)
        ]
