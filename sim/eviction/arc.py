"""Adaptive replacement cache."""

from __future__ import annotations

from sim.eviction.base import Evictor, Key, May, anyone, first
from sim.eviction.segment import Segment


class ARC(Evictor):
    """Balances recency and frequency by what it regrets (Megiddo and Modha, FAST'03, figure 4).

    Entries seen once and entries seen again are two LRU lists; each has a ghost list of keys that
    it lost. A miss that one of the ghosts remembers moves the target size of the first list.
    Sizes are those of the entries; with entries of size 1 this is the algorithm as published.
    """

    name = "arc"

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self._once, self._again = Segment(), Segment()
        self._once_ghosts, self._again_ghosts = Segment(), Segment()
        self._target = 0.0
        """Of ``_once``; the paper's p."""
        self._expected: Key | None = None
        self._comes_again = self._was_in_again = False

    def expect(self, key: Key) -> None:
        """Learn from a ghost, and forget ghosts where a key is entirely new."""
        self._expected = key
        self._comes_again = key in self._once_ghosts or key in self._again_ghosts
        once, again = self._once_ghosts, self._again_ghosts
        if key in once:
            step = max(again.total / once.total, 1) * once[key]
            self._target = min(self._target + step, self.capacity)
        elif key in again:
            step = max(once.total / again.total, 1) * again[key]
            self._target = max(self._target - step, 0)
        self._was_in_again = key in again
        for ghosts in (once, again):
            if key in ghosts:
                ghosts.take(key)

    def insert(self, key: Key, size: int = 1, end: int = 0) -> None:
        """To the list of those seen once, unless a ghost remembers it."""
        if key != self._expected:
            self.expect(key)
        (self._again if self._comes_again else self._once).append(key, size)
        self._expected = None
        self._trim()

    def _trim(self) -> None:
        """Lists with their ghosts: the first no larger than the cache, both than twice that."""
        once, ghosts = self._once, self._once_ghosts
        while ghosts and once.total + ghosts.total > self.capacity:
            ghosts.take_first()
        both = once.total + ghosts.total + self._again.total
        while self._again_ghosts and both + self._again_ghosts.total > 2 * self.capacity:
            self._again_ghosts.take_first()

    def touch(self, key: Key) -> None:
        """To the end of those seen again."""
        self._again.append(key, self._segment_of(key).take(key))

    def renew(self, key: Key) -> None:
        """To the end of its list."""
        self._segment_of(key).move_to_end(key)

    def remove(self, key: Key) -> None:
        """Take it out; no ghost stays."""
        self._segment_of(key).take(key)

    def evict(self, may: May = anyone) -> Key | None:
        """From the list that is larger than its target; the other where none of it may go."""
        pairs = [(self._once, self._once_ghosts), (self._again, self._again_ghosts)]
        if not self._prefers_once():
            pairs.reverse()
        for segment, ghosts in pairs:
            key = first(segment, may)
            if key is not None:
                ghosts.append(key, segment.take(key))
                return key
        return None

    def _prefers_once(self) -> bool:
        """The paper's REPLACE."""
        total = self._once.total
        at_target = self._expected is not None and self._was_in_again and total == self._target
        return total > 0 and (total > self._target or at_target)

    def _segment_of(self, key: Key) -> Segment:
        return self._once if key in self._once else self._again
