"""The interface of an eviction policy.

It orders the entries of one cache: blocks of a trace (`sim.eviction.cache`), or edges of a radix
tree, of which only leaves that nobody uses may go (`sim.radix.tree`). Who owns the cache makes
room and puts entries in::

    evictor.expect(key)                     # a miss, before room is made for the new entry
    evictor.evict(may)                      # as often as needed
    evictor.insert(key, size, end)
    evictor.touch(key)                      # a hit
    evictor.renew(key)                      # somebody who has it already goes on with it
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable
from typing import ClassVar

from sim.compiled import mypyc_attr
from workloads.registry import Registry

EVICTORS = Registry("eviction policy", "kvlab.evictors", {"lru": "sim.eviction.lru:LRU"})

Key = Hashable
May = Callable[[Key], bool]
"""Whether an entry can go now."""


def anyone(key: Key) -> bool:
    """Every entry can go."""
    del key
    return True


@mypyc_attr(allow_interpreted_subclasses=True)
class Evictor(ABC):
    """Base class of all eviction policies.

    capacity: size of the cache, in the unit of the entries' sizes.
    """

    name: ClassVar[str]

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity

    def expect(self, key: Key) -> None:  # noqa: B027  # most have nothing to do
        """``key`` was missed and will be inserted; room for it is made next."""

    @abstractmethod
    def insert(self, key: Key, size: int = 1, end: int = 0) -> None:
        """A new entry. size: room that it takes. end: tokens of the prefix that it completes."""

    @abstractmethod
    def touch(self, key: Key) -> None:
        """An entry was hit."""

    def renew(self, key: Key) -> None:  # noqa: B027  # order of arrival knows no recency
        """An entry is in use: recent, but not a hit."""

    @abstractmethod
    def remove(self, key: Key) -> None:
        """An entry left without being evicted."""

    @abstractmethod
    def evict(self, may: May = anyone) -> Key | None:
        """Take out the entry that goes first of those that may; None where none may."""


def first(keys: Iterable[Key], may: May) -> Key | None:
    """The first of ``keys`` that may go."""
    return next(filter(may, keys), None)
