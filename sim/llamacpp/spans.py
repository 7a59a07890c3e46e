"""Lowest and highest position of every sequence in one stream, kept without walking the cells."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sim.llamacpp.sizes import MAX_SEQ

Ids = NDArray[np.int32]
Positions = NDArray[np.int32]
Counts = NDArray[np.int64]


class Spans:
    """Per sequence id: its lowest position, and one more than its highest.

    low, end: int64, both 0 where the sequence holds no cell. Nearly all sequences hold each of the
    positions low .. end-1 once, so that appending and trimming is a matter of counters. irregular:
    how many cells hold the others. stale: ids whose entries must be taken from the cells again
    before they are read. moved: ids whose cells or positions were changed other than by placing and
    freeing.
    """

    __slots__ = ("end", "irregular", "low", "moved", "stale")

    def __init__(self) -> None:
        self.low: Counts = np.zeros(MAX_SEQ, np.int64)
        self.end: Counts = np.zeros(MAX_SEQ, np.int64)
        self.irregular: dict[int, int] = {}
        self.stale: set[int] = set()
        self.moved: set[int] = set()

    def clear(self) -> None:
        """No sequence holds anything."""
        self.low.fill(0)
        self.end.fill(0)
        self.irregular.clear()
        self.stale.clear()
        self.moved.clear()

    def drop(self, seq: int) -> None:
        """``seq`` holds nothing any more."""
        self.stale.discard(seq)
        self.moved.discard(seq)
        self._set(seq, 0, 0)

    def _set(self, seq: int, low: int, end: int) -> None:
        """A regular entry."""
        self.low[seq] = low
        self.end[seq] = end
        if self.irregular:
            self.irregular.pop(seq, None)

    # ---- questions, good for entries that are not stale

    def lowest(self, seq: int) -> int:
        """The lowest position of ``seq``, -1 if it holds no cell."""
        return int(self.low[seq]) if self.end[seq] else -1

    def count_of(self, seq: int) -> int:
        """How many cells hold ``seq``."""
        count = self.irregular.get(seq) if self.irregular else None
        return int(self.end[seq]) - int(self.low[seq]) if count is None else count

    def counts(self) -> Counts:
        """`count_of` every sequence."""
        counts = self.end - self.low
        for seq, count in self.irregular.items():
            counts[seq] = count
        return counts

    def is_regular(self, seq: int) -> bool:
        """Whether ``seq`` is neither irregular nor stale."""
        return not (seq in self.irregular or seq in self.stale)

    @property
    def all_regular(self) -> bool:
        """Whether no sequence is irregular or stale."""
        return not (self.irregular or self.stale)

    # ---- changes

    def take_from(self, seq: int, positions: Positions) -> None:
        """The entry of ``seq`` from all positions it holds, in any order."""
        self.stale.discard(seq)
        n = positions.size
        if n == 0:
            self._set(seq, 0, 0)
            return
        low, end = int(positions.min()), int(positions.max()) + 1
        self._set(seq, low, end)
        if end - low != n or bool((np.bincount(positions - low) != 1).any()):
            self.irregular[seq] = n

    def append(self, seq: int, first: int, n: int) -> None:
        """``seq`` also holds positions first .. first+n-1 now."""
        if seq in self.stale:
            return
        low, end = int(self.low[seq]), int(self.end[seq])
        if end == 0:
            self._set(seq, first, first + n)
        elif first == end and seq not in self.irregular:
            self.end[seq] = first + n
        else:
            count = self.count_of(seq)
            self._set(seq, min(low, first), max(end, first + n))
            self.irregular[seq] = count + n

    def append_each(self, seqs: NDArray[np.intp], firsts: Counts, n: int = 1) -> None:
        """Every one of the distinct ``seqs`` also holds ``n`` positions from ``firsts`` on now."""
        if self.irregular or np.count_nonzero(self.end[seqs] != firsts):
            for seq, first in zip(seqs.tolist(), firsts.tolist(), strict=True):
                self.append(seq, first, n)
        else:
            # Those that are stale are taken from the cells anyway.
            self.end[seqs] = firsts + n

    def trim_lowest(self, losers: NDArray[np.intp], positions: Positions | Counts) -> bool:
        """Forget ``positions`` of ``losers``, if each of these just loses its lowest, and not all.

        False if not, or where counters cannot tell; then nothing has changed.
        """
        if not self.all_regular:
            return False
        lost = np.bincount(losers, minlength=MAX_SEQ)
        above = positions - self.low[losers]
        if np.count_nonzero(above < lost[losers]) < above.size:
            return False
        low = self.low + lost
        if np.count_nonzero(low < self.end) < np.count_nonzero(self.end):
            return False
        self.low = low
        return True

    def trim_in_run(self, lost: Counts) -> None:
        """Every sequence forgets so many of its lowest positions."""
        self.low += lost
        emptied = self.low >= self.end
        if np.count_nonzero(emptied & (self.end > 0)):
            self.low[emptied] = self.end[emptied] = 0

    def trim_any(self, losers: NDArray[np.intp], positions: Positions | Counts) -> None:
        """Forget ``positions`` of ``losers``.

        Where counters cannot tell, entries are stale afterwards.
        """
        for seq in np.unique(losers).tolist():
            lost = positions[losers == seq]
            top = int(lost.max())
            if not self.is_regular(seq) or top + 1 - int(self.low[seq]) != lost.size:
                self.stale.add(seq)
            elif top + 1 == int(self.end[seq]):
                self.drop(seq)
            else:
                self.low[seq] = top + 1

    def trim_range(self, seq: int, first: int, end: int) -> None:
        """Forget all positions of ``seq`` in [first, end)."""
        if not self.is_regular(seq):
            self.stale.add(seq)
            return
        lowest, behind = int(self.low[seq]), int(self.end[seq])
        if first <= lowest and end >= behind:
            self.drop(seq)
        elif first <= lowest:
            self.low[seq] = end
        elif end >= behind:
            self.end[seq] = first
        else:
            self.irregular[seq] = behind - lowest - (end - first)

    def shift_all(self, seq: int, by: int) -> None:
        """All positions of ``seq`` move by ``by``; those that fall below 0 are gone."""
        if not self.is_regular(seq):
            self.stale.add(seq)
            return
        end = int(self.end[seq]) + by
        if end <= 0:
            self.drop(seq)
        else:
            self._set(seq, max(int(self.low[seq]) + by, 0), end)
