"""Pools of pages, given out in SGLang's order.

``TokenToKVPoolAllocator`` and ``PagedTokenToKVPoolAllocator`` in
``python/sglang/srt/mem_cache/allocator.py``, without sorting (their default): both take from the
front of an array of free pages. Single slots are given back to its end, so it is a queue. Larger
pages are given back to its front, sorted, so it is a stack. SGLang counts pages from 1, as page 0
takes the rows of padding; here they count from 0.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Protocol

import numpy as np

from sim.errors import IntegrityError
from sim.step import Cells


class AnyPool(Protocol):
    """What a manager and a tree take pages from."""

    @property
    def size(self) -> int:
        """Number of pages."""

    @property
    def free(self) -> int:
        """Pages that can be taken."""

    @property
    def all_free(self) -> int:
        """Pages that are free, whether or not there are window slots to go with them."""

    def take(self, n: int) -> Cells:
        """The first ``n`` free pages."""

    def take_late(self, n: int, window_n: int) -> Cells:
        """The first ``n`` free pages, of which only the last ``window_n`` get window slots."""

    def take_one(self) -> int:
        """The first free page."""

    def give(self, pages: Cells) -> None:
        """Give pages back."""

    def give_window(self, pages: Cells) -> None:
        """Give back only the window slots that go with ``pages``, where they have any."""

    def free_pages(self) -> Cells:
        """All free pages."""

    def check_integrity(self, held: Cells) -> None:
        """Raise `IntegrityError` where a page is lost or doubled."""


class PagePool(ABC):
    """``size`` pages. free: how many are free."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.free = size

    @property
    def all_free(self) -> int:
        """The free pages."""
        return self.free

    def take_late(self, n: int, window_n: int) -> Cells:
        """As `take`: there are no window slots."""
        del window_n
        return self.take(n)

    def give_window(self, pages: Cells) -> None:  # noqa: B027
        """There are no window slots."""

    @abstractmethod
    def take(self, n: int) -> Cells:
        """The first ``n`` free pages, of which there must be as many; a new array."""

    @abstractmethod
    def take_one(self) -> int:
        """The first free page, of which there must be one."""

    @abstractmethod
    def give(self, pages: Cells) -> None:
        """Give pages back, in this order."""

    @abstractmethod
    def free_pages(self) -> Cells:
        """All free pages, the next to be taken first."""

    def check_integrity(self, held: Cells) -> None:
        """Raise `IntegrityError` unless every page is either free or one of ``held``, once."""
        pages = np.concatenate([self.free_pages(), held])
        if len(self.free_pages()) != self.free:
            raise IntegrityError(f"{len(self.free_pages())} free pages, counted {self.free}")
        if len(pages) != self.size or (np.sort(pages) != np.arange(self.size)).any():
            raise IntegrityError(f"{len(held)} pages held, {self.free} free of {self.size}")


class SlotQueue(PagePool):
    """Slots of one token: first given back, first taken."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self._ring = np.arange(size, dtype=np.int64)
        self._head = 0

    def take(self, n: int) -> Cells:
        """From the head of the queue."""
        head, end = self._head, self._head + n
        if end >= self.size:
            taken = np.concatenate([self._ring[head:], self._ring[: end - self.size]])
            self._head = end - self.size
        else:
            taken = self._ring[head:end].copy()
            self._head = end
        self.free -= n
        return taken

    def take_one(self) -> int:
        """The head of the queue."""
        head = self._head
        self._head = head + 1 if head + 1 < self.size else 0
        self.free -= 1
        return int(self._ring[head])

    def give(self, pages: Cells) -> None:
        """To the end of the queue."""
        n, size = len(pages), self.size
        tail = (self._head + self.free) % size
        split = min(n, size - tail)
        self._ring[tail : tail + split] = pages[:split]
        self._ring[: n - split] = pages[split:]
        self.free += n

    def free_pages(self) -> Cells:
        """The queue."""
        return self._ring[(self._head + np.arange(self.free)) % self.size]


class PageStack(PagePool):
    """Pages of several tokens: last given back, first taken, the lowest of a batch first."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self._stack = np.arange(size - 1, -1, -1, dtype=np.int64)

    def take(self, n: int) -> Cells:
        """From the top of the stack."""
        self.free -= n
        return self._stack[self.free : self.free + n][::-1].copy()

    def take_one(self) -> int:
        """The top of the stack."""
        self.free -= 1
        return int(self._stack[self.free])

    def give(self, pages: Cells) -> None:
        """On top of the stack."""
        n = len(pages)
        self._stack[self.free : self.free + n] = np.sort(pages)[::-1]
        self.free += n

    def free_pages(self) -> Cells:
        """The stack from its top."""
        return self._stack[: self.free][::-1]


def pool_of(size: int, page_size: int) -> PagePool:
    """A pool of ``size`` pages of ``page_size`` tokens."""
    return SlotQueue(size) if page_size == 1 else PageStack(size)
