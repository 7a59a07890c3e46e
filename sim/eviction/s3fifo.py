"""S3-FIFO: three FIFO queues."""

from __future__ import annotations

from sim.eviction.base import Evictor, Key, May, anyone, first
from sim.eviction.segment import Segment

SMALL_SHARE = 0.1
MOST_HITS = 3
HITS_TO_STAY = 2


class S3FIFO(Evictor):
    """Most entries are asked for once: they pass a small queue (Yang et al., SOSP'23, algorithm 1).

    New entries enter the small queue, those that a ghost remembers the main one. At the front of
    the small queue an entry with two hits or more moves to the main one, without its hits; others
    go. At the front of the main queue every hit buys another round.
    """

    name = "s3fifo"

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self._small, self._main, self._ghosts = Segment(), Segment(), Segment()
        self._most_small = SMALL_SHARE * capacity
        self._hits: dict[Key, int] = {}

    def insert(self, key: Key, size: int = 1, end: int = 0) -> None:
        """Into the small queue, or into the main one if it went not long ago."""
        comes_back = key in self._ghosts
        if comes_back:
            self._ghosts.take(key)
        (self._main if comes_back else self._small).append(key, size)
        self._hits[key] = 0

    def touch(self, key: Key) -> None:
        """Count the hit; nothing moves."""
        self._hits[key] = min(self._hits[key] + 1, MOST_HITS)

    def remove(self, key: Key) -> None:
        """Take it out."""
        (self._small if key in self._small else self._main).take(key)
        del self._hits[key]

    def evict(self, may: May = anyone) -> Key | None:
        """From the small queue if it has its share, else from the main one; or from the other."""
        queues = [self._evict_small, self._evict_main]
        if self._small.total < self._most_small:
            queues.reverse()
        # The small queue may have moved all of it to the main one.
        for evict in (*queues, self._evict_main):
            gone = evict(may)
            if gone is not None:
                return gone
        return None

    def _evict_small(self, may: May) -> Key | None:
        while (key := first(self._small, may)) is not None:
            size = self._small.take(key)
            if self._hits[key] < HITS_TO_STAY:
                del self._hits[key]
                self._remember(key, size)
                return key
            self._hits[key] = 0
            self._main.append(key, size)
            if self._main.total > self.capacity - self._most_small:
                return self._evict_main(may)
        return None

    def _evict_main(self, may: May) -> Key | None:
        while (key := first(self._main, may)) is not None:
            size = self._main.take(key)
            if not self._hits[key]:
                del self._hits[key]
                return key
            self._hits[key] -= 1
            self._main.append(key, size)
        return None

    def _remember(self, key: Key, size: int) -> None:
        """Ghosts take as much room as the main queue may."""
        self._ghosts.append(key, size)
        while self._ghosts.total > self.capacity - self._most_small:
            self._ghosts.take_first()
