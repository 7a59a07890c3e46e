"""What one sequence holds of a radix cache."""

from __future__ import annotations

import numpy as np

from sim.radix.node import Node
from sim.radix.tree import NO_PAGES
from sim.step import Cells
from workloads.request import PrefixPath

NEVER = 1 << 62
_MANY_PIECES = 64


class Holding:
    """What one sequence holds: a locked path of the tree, and pages of its own behind it.

    node: where the locked path ends. path: its prefix identity. pages: number of its own pages.
    end: tokens that room was last made for. final: tokens it will have in the end. surplus: room
    in its last page that it will never use, as far as it is known. prefilling: whether its tokens
    are still put into the tree as they are computed. mark: what the tree knows its lock by.

    Where a window has a pool of its own: given_up: leading tokens whose window slots it has given
    back. drop_at: tokens that have to be computed before it gives up more.
    """

    __slots__ = (
        "_loose",
        "_pieces",
        "drop_at",
        "end",
        "final",
        "given_up",
        "mark",
        "node",
        "pages",
        "path",
        "prefilling",
        "surplus",
    )

    def __init__(self, node: Node, path: PrefixPath, end: int, final: int) -> None:
        self.node = node
        self.path = path
        self.end = end
        self.final = final
        self.pages = self.surplus = self.mark = self.given_up = self.drop_at = 0
        self.prefilling = True
        self._pieces: list[Cells] = []
        self._loose: list[int] = []
        """Pages that came one by one, behind the pieces."""

    def add(self, pages: Cells) -> None:
        """More pages of its own."""
        if self._loose:
            self._tie_up()
        self._pieces.append(pages)
        self.pages += len(pages)
        if len(self._pieces) == _MANY_PIECES:
            self.own()

    def add_one(self, page: int) -> None:
        """One page more of its own."""
        self._loose.append(page)
        self.pages += 1

    def _tie_up(self) -> None:
        self._pieces.append(np.array(self._loose, dtype=np.int64))
        self._loose.clear()

    def own(self) -> Cells:
        """Its own pages, in order."""
        if self._loose:
            self._tie_up()
        pieces = self._pieces
        if len(pieces) > 1:
            pieces[:] = [np.concatenate(pieces)]
        return pieces[0] if pieces else NO_PAGES

    def keep(self, pages: Cells) -> None:
        """These are its own pages now."""
        self._loose.clear()
        self._pieces = [pages]
        self.pages = len(pages)
