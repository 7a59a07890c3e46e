"""Entries in order, and the room that they take together."""

from __future__ import annotations

from collections import OrderedDict

from sim.eviction.base import Key


class Segment(OrderedDict[Key, int]):
    """Sizes by key, the next to go in front. total: their sum."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def append(self, key: Key, size: int) -> None:
        """To the end; the key must be new."""
        self[key] = size
        self.total += size

    def take(self, key: Key) -> int:
        """Out of it; the size."""
        size = self.pop(key)
        self.total -= size
        return size

    def take_first(self) -> tuple[Key, int]:
        """The front entry and its size, taken out."""
        key, size = self.popitem(last=False)
        self.total -= size
        return key, size
