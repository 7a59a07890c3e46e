"""Free runs of a linear address space: first-fit, best-fit, and the buddy system."""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_left

from sim.errors import IntegrityError


class FreeList(ABC):
    """Free cells of an address space of ``capacity`` cells, kept as runs."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.free = capacity

    @abstractmethod
    def size_of(self, n: int) -> int:
        """Cells that a request for ``n`` really takes."""

    @abstractmethod
    def take(self, n: int) -> int | None:
        """Take ``size_of(n)`` cells in a row; the first address, or None where no run is left."""

    @abstractmethod
    def give(self, start: int, n: int) -> None:
        """Give back what ``take(n)`` answered with ``start``."""

    @property
    @abstractmethod
    def largest(self) -> int:
        """Cells of the largest request that `take` would meet now."""


class FitList(FreeList):
    """Runs in order of address, neighbours merged; first-fit, or best-fit with ``best``."""

    def __init__(self, capacity: int, best: bool = False) -> None:
        super().__init__(capacity)
        self.best = best
        self._starts = [0]
        self._sizes = [capacity]

    def size_of(self, n: int) -> int:
        """Just what is asked for."""
        return n

    def take(self, n: int) -> int | None:
        """From the first run that is long enough, or from the shortest such."""
        fitting = ((size, i) for i, size in enumerate(self._sizes) if size >= n)
        found = min(fitting, default=None) if self.best else next(fitting, None)
        if found is None:
            return None
        return self._cut(found[1], n)

    def extend(self, end: int, n: int) -> bool:
        """Take the ``n`` cells from address ``end`` on, if they are all free."""
        i = bisect_left(self._starts, end)
        if i == len(self._starts) or self._starts[i] != end or self._sizes[i] < n:
            return False
        self._cut(i, n)
        return True

    def _cut(self, i: int, n: int) -> int:
        start = self._starts[i]
        if self._sizes[i] == n:
            del self._starts[i], self._sizes[i]
        else:
            self._starts[i] += n
            self._sizes[i] -= n
        self.free -= n
        return start

    def give(self, start: int, n: int) -> None:
        """Merge the run with free neighbours; raises `IntegrityError` if it is free already."""
        i = bisect_left(self._starts, start)
        before = i > 0 and self._starts[i - 1] + self._sizes[i - 1]
        if (before and before > start) or (i < len(self._starts) and self._starts[i] < start + n):
            raise IntegrityError(f"cells {start}..{start + n - 1} are given back twice")
        self.free += n
        if i < len(self._starts) and self._starts[i] == start + n:
            n += self._sizes[i]
            del self._starts[i], self._sizes[i]
        if before and before == start:
            self._sizes[i - 1] += n
        else:
            self._starts.insert(i, start)
            self._sizes.insert(i, n)

    @property
    def largest(self) -> int:
        """The longest run."""
        return max(self._sizes, default=0)


class BuddyList(FreeList):
    """Blocks of powers of two, aligned to their size; halves are merged when both are free.

    A capacity that is no power of two is laid out as the aligned powers that add up to it.
    """

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self._blocks: dict[int, set[int]] = {
            1 << order: set() for order in range(capacity.bit_length())
        }
        start = 0
        for size in sorted(self._blocks, reverse=True):
            if capacity & size:
                self._blocks[size].add(start)
                start += size

    def size_of(self, n: int) -> int:
        """The next power of two."""
        return 1 << (n - 1).bit_length()

    def take(self, n: int) -> int | None:
        """The lowest block of the smallest size that serves, split as often as needed."""
        wanted = self.size_of(n)
        size = wanted
        while size in self._blocks and not self._blocks[size]:
            size *= 2
        if size not in self._blocks:
            return None
        start = min(self._blocks[size])
        self._blocks[size].remove(start)
        while size > wanted:
            size //= 2
            self._blocks[size].add(start + size)
        self.free -= wanted
        return start

    def give(self, start: int, n: int) -> None:
        """Merge the block with its buddy as long as that is free too."""
        size = self.size_of(n)
        if start in self._blocks[size]:
            raise IntegrityError(f"block {start} of {size} cells is given back twice")
        self.free += size
        while (start ^ size) in self._blocks[size]:
            self._blocks[size].remove(start ^ size)
            start &= ~size
            size *= 2
        self._blocks[size].add(start)

    @property
    def largest(self) -> int:
        """The largest free block."""
        return max((size for size, starts in self._blocks.items() if starts), default=0)
