"""Least recently used first."""

from __future__ import annotations

from collections import OrderedDict

from sim.eviction.base import Evictor, Key, May, anyone, first


class LRU(Evictor):
    """The entry that was not asked for the longest; SGLang's and vLLM's default."""

    name = "lru"

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self._order: OrderedDict[Key, None] = OrderedDict()

    def insert(self, key: Key, size: int = 1, end: int = 0) -> None:
        """To the end."""
        self._order[key] = None

    def touch(self, key: Key) -> None:
        """To the end again."""
        self._order.move_to_end(key)

    def renew(self, key: Key) -> None:
        """As a hit."""
        self._order.move_to_end(key)

    def remove(self, key: Key) -> None:
        """Take it out."""
        del self._order[key]

    def evict(self, may: May = anyone) -> Key | None:
        """From the front."""
        key = first(self._order, may)
        if key is not None:
            del self._order[key]
        return key
