"""Least frequently used first."""

from __future__ import annotations

from sim.eviction.classes import ByClass


class LFU(ByClass):
    """The entry with the fewest hits since it came; of those the least recently used."""

    name = "lfu"

    def class_of_new(self, end: int) -> int:
        """No hits yet."""
        return 0

    def class_after_hit(self, before: int) -> int:
        """One more."""
        return before + 1
