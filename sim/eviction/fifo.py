"""First in, first out."""

from __future__ import annotations

from sim.eviction.base import Key
from sim.eviction.lru import LRU


class FIFO(LRU):
    """The oldest entry, however often it was asked for."""

    name = "fifo"

    def touch(self, key: Key) -> None:
        """Hits change nothing."""

    def renew(self, key: Key) -> None:
        """Nor does use."""
