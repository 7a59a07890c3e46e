"""Entries by class, the class that goes first in front, each in order of use."""

from __future__ import annotations

from abc import abstractmethod
from bisect import bisect_left, insort
from collections import OrderedDict

from sim.eviction.base import Evictor, Key, May, anyone, first


class ByClass(Evictor):
    """Evicts from the lowest class that has an entry that may go, the least recently used first."""

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self._class_of: dict[Key, int] = {}
        self._members: dict[int, OrderedDict[Key, None]] = {}
        self._classes: list[int] = []
        """Rising."""

    @abstractmethod
    def class_of_new(self, end: int) -> int:
        """The class of an entry that completes a prefix of ``end`` tokens."""

    @abstractmethod
    def class_after_hit(self, before: int) -> int:
        """The class of an entry of class ``before`` that was hit."""

    def insert(self, key: Key, size: int = 1, end: int = 0) -> None:
        """To the end of its class."""
        self._put(key, self.class_of_new(end))

    def touch(self, key: Key) -> None:
        """To the end of the class that it has now."""
        self._put(key, self.class_after_hit(self._take(key)))

    def renew(self, key: Key) -> None:
        """To the end of its class."""
        self._put(key, self._take(key))

    def remove(self, key: Key) -> None:
        """Take it out."""
        self._take(key)

    def evict(self, may: May = anyone) -> Key | None:
        """From the front of the lowest class that offers anything."""
        for each in self._classes:
            key = first(self._members[each], may)
            if key is not None:
                self._take(key)
                return key
        return None

    def _put(self, key: Key, its: int) -> None:
        self._class_of[key] = its
        if its not in self._members:
            self._members[its] = OrderedDict()
            insort(self._classes, its)
        self._members[its][key] = None

    def _take(self, key: Key) -> int:
        its = self._class_of.pop(key)
        members = self._members[its]
        del members[key]
        if not members:
            del self._members[its]
            del self._classes[bisect_left(self._classes, its)]
        return its
