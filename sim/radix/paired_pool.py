"""Pages of layers with full attention, each with a page of the layers with a window."""

from __future__ import annotations

import numpy as np

from sim.errors import IntegrityError
from sim.radix.pool import PagePool
from sim.step import Cells

NO_PAGE = -1


class PairedPool:
    """Two pools whose pages are taken together; the window's half can be given back alone.

    SGLang's ``SWATokenToKVPoolAllocator`` (``mem_cache/allocator/swa.py``). A page is known by its
    place in the first pool. full, window: the pools. window_of: by page, its other half, or
    `NO_PAGE`.
    """

    def __init__(self, full: PagePool, window: PagePool) -> None:
        self.full = full
        self.window = window
        self.window_of = np.full(full.size, NO_PAGE, dtype=np.int64)

    @property
    def size(self) -> int:
        """Pages of the first pool."""
        return self.full.size

    @property
    def free(self) -> int:
        """Pages that can be taken with both halves."""
        return min(self.full.free, self.window.free)

    @property
    def all_free(self) -> int:
        """Free pages of the first pool."""
        return self.full.free

    def take(self, n: int) -> Cells:
        """The first ``n`` of both pools."""
        return self.take_late(n, n)

    def take_late(self, n: int, window_n: int) -> Cells:
        """The first ``n`` pages, of which only the last ``window_n`` get a window's half."""
        pages = self.full.take(n)
        self.window_of[pages[n - window_n :]] = self.window.take(window_n)
        return pages

    def take_one(self) -> int:
        """The first of both pools."""
        page = self.full.take_one()
        self.window_of[page] = self.window.take_one()
        return page

    def give(self, pages: Cells) -> None:
        """Give pages back, with what they still have of the window's half."""
        self.full.give(pages)
        self.give_window(pages)

    def give_window(self, pages: Cells) -> None:
        """Give back the window's half alone."""
        halves = self.window_of[pages]
        self.window.give(halves[halves != NO_PAGE])
        self.window_of[pages] = NO_PAGE

    def move_window(self, source: Cells, target: Cells) -> None:
        """Let the pages ``target``, which have none, take over the window's half of ``source``."""
        self.window_of[target] = self.window_of[source]
        self.window_of[source] = NO_PAGE

    def free_pages(self) -> Cells:
        """Those of the first pool, the next to be taken first."""
        return self.full.free_pages()

    def check_integrity(self, held: Cells) -> None:
        """Raise `IntegrityError` unless either pool's pages are free or held, each once."""
        self.full.check_integrity(held)
        halves = self.window_of[held]
        self.window.check_integrity(halves[halves != NO_PAGE])
        if (self.window_of[self.full.free_pages()] != NO_PAGE).any():
            raise IntegrityError("a free page still has its window's half")
