"""Edges of the radix tree."""

from __future__ import annotations

from sim.step import Cells
from workloads.prefix import branch_at, common_prefix
from workloads.request import PrefixPath


class Node:
    """Tokens ``start .. end - 1`` of all sequences on a branch, and the pages that hold them.

    Which tokens they are is said by ``path``, the prefix identity of whoever brought them, up to
    ``end`` (see `workloads.request`): the prefix of ``end`` tokens is (``branch``, ``end``), and
    that is the node's ``key``. locks: sequences that run on it or below it. children: by the
    branch of the prefix that ends with their first page.

    Where a window has a pool of its own: window_locks: sequences whose window lies on it. mark:
    names it as the upper end of such a lock, 0 for none. tombstone: its window slots are gone.
    """

    __slots__ = (
        "branch",
        "children",
        "end",
        "locks",
        "mark",
        "pages",
        "parent",
        "path",
        "start",
        "tombstone",
        "window_locks",
    )

    def __init__(
        self, parent: Node | None, path: PrefixPath, start: int, end: int, pages: Cells
    ) -> None:
        self.parent = parent
        self.path = path
        self.start = start
        self.end = end
        self.branch = branch_at(path, end) if end else 0
        self.pages = pages
        self.children: dict[int, Node] = {}
        self.locks = self.window_locks = self.mark = 0
        self.tombstone = False

    @property
    def size(self) -> int:
        """Tokens."""
        return self.end - self.start

    @property
    def key(self) -> tuple[int, int]:
        """The identity of the prefix that it completes."""
        return self.branch, self.end

    def agreement(self, path: PrefixPath, stop: int) -> int:
        """The position up to which a sequence that enters here agrees, at most ``stop``."""
        if self.end <= stop and branch_at(path, self.end) == self.branch:
            return self.end
        return min(common_prefix(self.path, path), self.end, stop)

    def __repr__(self) -> str:
        return f"Node({self.start}..{self.end} of {self.branch}, {self.locks} locks)"
