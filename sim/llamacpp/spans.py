"""Lowest and highest position of every sequence in one stream, kept without walking the cells."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sim.llamacpp.sizes import MAX_SEQ

Ids = NDArray[np.int16]
Positions = NDArray[np.int32]
Counts = NDArray[np.int64]


class Spans:
    """Per sequence id: how many cells hold it, its lowest and highest position.

    hi: int64, -1 where the sequence holds no cell. count: int64, cells. Nearly all sequences hold
    the positions hi-count+1 .. hi, each once, so that their lowest need not be kept, and appending
    and trimming is a matter of counters. irregular: the lowest position of the others.
    stale: ids whose entries must be taken from the cells again before they are read.
    moved: ids whose cells or positions were changed other than by placing and freeing.
    """

    __slots__ = ("count", "hi", "irregular", "moved", "stale")

    def __init__(self) -> None:
        self.count = np.zeros(MAX_SEQ, np.int64)
        self.hi = np.full(MAX_SEQ, -1, np.int64)
        self.irregular: dict[int, int] = {}
        self.stale: set[int] = set()
        self.moved: set[int] = set()

    def clear(self) -> None:
        """No sequence holds anything."""
        self.count.fill(0)
        self.hi.fill(-1)
        self.irregular.clear()
        self.stale.clear()
        self.moved.clear()

    def drop(self, seq: int) -> None:
        """``seq`` holds nothing any more."""
        self.stale.discard(seq)
        self.moved.discard(seq)
        self._set(seq, 0, -1)

    def _set(self, seq: int, count: int, hi: int) -> None:
        """A regular entry."""
        self.count[seq] = count
        self.hi[seq] = hi
        if self.irregular:
            self.irregular.pop(seq, None)

    # ---- questions, good for entries that are not stale

    def lowest(self, seq: int) -> int:
        """The lowest position of ``seq``, -1 if it holds no cell."""
        count = int(self.count[seq])
        if count == 0:
            return -1
        found = self.irregular.get(seq) if self.irregular else None
        return int(self.hi[seq]) + 1 - count if found is None else found

    def lowest_each(self) -> Counts:
        """`lowest` of every sequence; one more than the highest where it holds no cell."""
        lowest = self.hi + 1
        lowest -= self.count
        for seq, lo in self.irregular.items():
            lowest[seq] = lo
        return lowest

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
            self._set(seq, 0, -1)
            return
        lo, hi = int(positions.min()), int(positions.max())
        self._set(seq, n, hi)
        if hi - lo + 1 != n or bool((np.bincount(positions - lo) != 1).any()):
            self.irregular[seq] = lo

    def append(self, seq: int, first: int, n: int) -> None:
        """``seq`` also holds positions first .. first+n-1 now."""
        if seq in self.stale:
            return
        count, hi = int(self.count[seq]), int(self.hi[seq])
        if count == 0 or (first == hi + 1 and seq not in self.irregular):
            self.count[seq] = count + n
            self.hi[seq] = first + n - 1
            return
        lowest = self.lowest(seq)
        self._set(seq, count + n, max(hi, first + n - 1))
        self.irregular[seq] = min(lowest, first)

    def append_each(self, seqs: NDArray[np.intp], firsts: Counts) -> None:
        """Every one of the distinct ``seqs`` also holds the position in ``firsts`` now."""
        if not np.count_nonzero(self.hi[seqs] + 1 != firsts):
            # Those that are stale are taken from the cells anyway; irregular ones stay so.
            self.hi[seqs] = firsts
            self.count[seqs] += 1
            return
        for seq, first in zip(seqs.tolist(), firsts.tolist(), strict=True):
            self.append(seq, first, 1)

    def trim_low(
        self, losers: NDArray[np.intp], lost: NDArray[np.intp], highest: Positions
    ) -> bool:
        """Each of the distinct ``losers`` forgets ``lost`` positions, ``highest`` the highest.

        Returns whether these were just its lowest ones, and not all. Where counters cannot tell,
        entries are stale afterwards.
        """
        left = self.count[losers] - lost
        simple = self.hi[losers] - left == highest
        if self.all_regular and simple.all() and left.all():
            self.count[losers] = left
            return True
        each = zip(losers.tolist(), left.tolist(), simple.tolist(), strict=True)
        for seq, count, is_simple in each:
            if seq in self.stale or seq in self.irregular or not is_simple:
                self.stale.add(seq)
            elif count == 0:
                self.drop(seq)
            else:
                self.count[seq] = count
        return False

    def trim_range(self, seq: int, first: int, end: int) -> None:
        """Forget all positions of ``seq`` in [first, end)."""
        if seq in self.stale or seq in self.irregular:
            self.stale.add(seq)
            return
        hi, count = int(self.hi[seq]), int(self.count[seq])
        lo = hi + 1 - count
        if first <= lo and end > hi:
            self.drop(seq)
        elif first <= lo:
            self.count[seq] = hi - end + 1
        elif end > hi:
            self._set(seq, first - lo, first - 1)
        else:
            self.count[seq] = count - (end - first)
            self.irregular[seq] = lo

    def shift_all(self, seq: int, by: int) -> None:
        """All positions of ``seq`` move by ``by``; those that fall below 0 are gone."""
        if seq in self.stale or seq in self.irregular:
            self.stale.add(seq)
            return
        hi = int(self.hi[seq]) + by
        if hi < 0:
            self.drop(seq)
        else:
            self._set(seq, min(int(self.count[seq]), hi + 1), hi)
