"""Segmented LRU."""

from __future__ import annotations

from sim.eviction.base import Evictor, Key, May, anyone, first
from sim.eviction.segment import Segment

PROTECTED_SHARE = 0.8
"""Of the capacity; the middle of what Karedla, Love and Wherry (1994) found good."""


class SLRU(Evictor):
    """Entries that were hit are protected from those that came once (Karedla et al., 1994).

    New entries are on probation. A hit protects; when the protected take more than their share,
    the least recently used of them go back on probation. What is on probation goes first.
    """

    name = "slru"

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self._probation, self._protected = Segment(), Segment()
        self._most_protected = int(PROTECTED_SHARE * capacity)

    def insert(self, key: Key, size: int = 1, end: int = 0) -> None:
        """On probation."""
        self._probation.append(key, size)

    def touch(self, key: Key) -> None:
        """Protect it, and put others back on probation where that makes too many."""
        self._protected.append(key, self._segment_of(key).take(key))
        while self._protected.total > self._most_protected:
            self._probation.append(*self._protected.take_first())

    def renew(self, key: Key) -> None:
        """To the end of its list."""
        self._segment_of(key).move_to_end(key)

    def remove(self, key: Key) -> None:
        """Take it out."""
        self._segment_of(key).take(key)

    def evict(self, may: May = anyone) -> Key | None:
        """The least recently used on probation, or else of the protected."""
        for segment in (self._probation, self._protected):
            key = first(segment, may)
            if key is not None:
                segment.take(key)
                return key
        return None

    def _segment_of(self, key: Key) -> Segment:
        return self._probation if key in self._probation else self._protected
