"""Lowest and highest position of every sequence in one stream, kept without walking the cells."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sim.llamacpp.sizes import MAX_SEQ

Ids = NDArray[np.int16]
Positions = NDArray[np.int32]


class Spans:
    """Per sequence id: how many cells hold it, its lowest and highest position.

    lo, hi: int64, -1 where the sequence holds no cell. count: cells. regular: the positions are
    lo, lo+1, .. hi, each once, which is what makes appending and trimming a matter of counters.
    stale: ids whose entries must be taken from the cells again before they are read.
    """

    __slots__ = ("count", "hi", "lo", "regular", "stale")

    def __init__(self) -> None:
        self.count = np.zeros(MAX_SEQ, np.int64)
        self.lo = np.full(MAX_SEQ, -1, np.int64)
        self.hi = np.full(MAX_SEQ, -1, np.int64)
        self.regular = np.ones(MAX_SEQ, np.bool_)
        self.stale: set[int] = set()

    def clear(self) -> None:
        """No sequence holds anything."""
        self.count.fill(0)
        self.lo.fill(-1)
        self.hi.fill(-1)
        self.regular.fill(True)
        self.stale.clear()

    def drop(self, seq: int) -> None:
        """``seq`` holds nothing any more."""
        self.stale.discard(seq)
        self._set(seq, 0, -1, -1, True)

    def _set(self, seq: int, count: int, lo: int, hi: int, regular: bool) -> None:
        self.count[seq] = count
        self.lo[seq] = lo
        self.hi[seq] = hi
        self.regular[seq] = regular

    def take_from(self, seq: int, positions: Positions) -> None:
        """The entry of ``seq`` from all positions it holds, in any order."""
        self.stale.discard(seq)
        n = positions.size
        if n == 0:
            self._set(seq, 0, -1, -1, True)
            return
        lo, hi = int(positions.min()), int(positions.max())
        regular = hi - lo + 1 == n and bool((np.bincount(positions - lo) == 1).all())
        self._set(seq, n, lo, hi, regular)

    def append(self, seq: int, first: int, n: int) -> None:
        """``seq`` also holds positions first .. first+n-1 now."""
        if seq in self.stale:
            return
        count = int(self.count[seq])
        if count == 0:
            self._set(seq, n, first, first + n - 1, True)
            return
        follows = bool(self.regular[seq]) and first == self.hi[seq] + 1
        lo, hi = int(self.lo[seq]), int(self.hi[seq])
        self._set(seq, count + n, min(lo, first), max(hi, first + n - 1), follows)

    def append_each(self, seqs: Ids, firsts: Positions, n: int | NDArray[np.int64]) -> None:
        """Every one of the distinct ``seqs`` also holds ``n`` positions from ``firsts`` on now."""
        follows = self.regular[seqs]
        follows &= self.hi[seqs] + 1 == firsts
        held = self.count[seqs]
        if self.stale or not (follows.all() or (follows | (held == 0)).all()):
            lengths = np.broadcast_to(n, seqs.size).tolist()
            for seq, first, length in zip(seqs.tolist(), firsts.tolist(), lengths, strict=True):
                self.append(seq, first, length)
            return
        if not held.all():
            new = held == 0
            self.lo[seqs[new]] = firsts[new]
        self.hi[seqs] = firsts + (n - 1)
        self.count[seqs] = held + n

    def trim_low_each(
        self, seqs: Ids, lowest: Positions, highest: Positions, n: NDArray[np.int64]
    ) -> list[int]:
        """`trim_low` of every one of the distinct ``seqs``, some of whose positions stay.

        Returns the indices of those that have to be done one by one, unchanged.
        """
        known = self.regular[seqs]
        known &= (lowest == self.lo[seqs]) & (highest == lowest + n - 1) & (n < self.count[seqs])
        if self.stale:
            known &= ~np.isin(seqs, list(self.stale))
        found, gone = seqs[known], n[known]
        self.lo[found] += gone
        self.count[found] -= gone
        left: list[int] = (~known).nonzero()[0].tolist()
        return left

    def trim_low(self, seq: int, lowest: int, highest: int, n: int) -> bool:
        """Forget ``n`` positions between ``lowest`` and ``highest``, if they are just the lowest n.

        Returns False, with nothing changed, where counters cannot tell.
        """
        if seq in self.stale or not self.regular[seq]:
            return False
        if lowest != self.lo[seq] or highest != lowest + n - 1:
            return False
        if n == self.count[seq]:
            self.drop(seq)
        else:
            self.lo[seq] += n
            self.count[seq] -= n
        return True

    def trim_range(self, seq: int, first: int, end: int) -> None:
        """Forget all positions of ``seq`` in [first, end)."""
        if seq in self.stale or not self.regular[seq]:
            self.stale.add(seq)
            return
        lo, hi = int(self.lo[seq]), int(self.hi[seq])
        if first <= lo and end > hi:
            self.drop(seq)
        elif first <= lo:
            self._set(seq, hi - end + 1, end, hi, True)
        elif end > hi:
            self._set(seq, first - lo, lo, first - 1, True)
        else:
            self._set(seq, hi - lo + 1 - (end - first), lo, hi, False)

    def shift_all(self, seq: int, by: int) -> None:
        """All positions of ``seq`` move by ``by``; those that fall below 0 are gone."""
        if seq in self.stale or not self.regular[seq]:
            self.stale.add(seq)
            return
        lo, hi = int(self.lo[seq]) + by, int(self.hi[seq]) + by
        if hi < 0:
            self.drop(seq)
        else:
            self._set(seq, hi - max(lo, 0) + 1, max(lo, 0), hi, True)
