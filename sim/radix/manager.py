"""Who holds which pages: sequences, over a radix tree that keeps what they leave.

What SGLang does around its tree: ``python/sglang/srt/mem_cache/common.py`` (evict what is missing,
then allocate), ``cache_unfinished_req`` and ``cache_finished_req`` of ``radix_cache.py``.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from sim.errors import IntegrityError
from sim.radix.holding import NEVER, Holding
from sim.radix.node import Node
from sim.radix.pool import AnyPool
from sim.radix.tree import NO_PAGES, RadixTree
from sim.step import Cells
from workloads.request import PrefixPath


class RadixManager:
    """A tree over a pool of pages, and who holds what.

    caching: whether anything is put into the tree. window: tokens of a window that has a pool of
    its own, or 0. tokens: of all sequences, in their own pages. surplus: the sum over holdings.
    holdings: by sequence id. Lengths are in tokens.
    """

    def __init__(self, pool: AnyPool, tree: RadixTree, caching: bool, window: int = 0) -> None:
        self.page_size = tree.page_size
        self.pool = pool
        self.tree = tree
        self.caching = caching
        self.holdings: dict[int, Holding] = {}
        self.tokens = self.surplus = 0
        self._window = window

    # Room.

    @property
    def full_available(self) -> int:
        """Pages that are free, or can be made so, whatever there is of window slots."""
        return self.pool.all_free + self.tree.evictable // self.page_size

    def pages_for(self, tokens: int) -> int:
        """Pages that begin before ``tokens`` tokens are full."""
        return -(-tokens // self.page_size)

    def lacking(self, node: Node, tokens: int, chunk: int) -> int:
        """Pages that cannot be had for ``tokens`` tokens, of which ``node`` ends those of a hit.

        0 or less: all can be had. chunk: tokens of the first step.
        """
        need = self.pages_for(tokens) - node.end // self.page_size
        return self.tree.lacking(node, need, min(need, self.pages_for(chunk)))

    def _take(self, n: int) -> Cells:
        """``n`` pages, which can be had; what is missing is evicted first."""
        if n > self.pool.free:
            self.tree.make_room(n, n)
        return self.pool.take(n)

    def take_one_by_one(self, n: int) -> Cells:
        """As ``n`` times one page: nothing is evicted before the last free one is taken."""
        if n <= self.pool.free:
            return self.pool.take(n)
        pieces = []
        while n:
            if not self.pool.free:
                self.tree.make_room(1, 1)
            pieces.append(self.pool.take(min(n, self.pool.free)))
            n -= len(pieces[-1])
        return np.concatenate(pieces)

    # Sequences.

    def admit(self, owner: int, path: PrefixPath, node: Node, n: int, final: int) -> bool:
        """Let ``owner`` hold the path to ``node`` and room for ``n`` tokens, or answer False."""
        if self.lacking(node, node.end + n, n) > 0:
            return False
        self.tree.hit(node)
        self._grow(self._hold(owner, node, path, final), node.end, n)
        return True

    def _hold(self, owner: int, node: Node, path: PrefixPath, final: int) -> Holding:
        holding = self.holdings[owner] = Holding(node, path, node.end, final)
        holding.mark = self.tree.lock(node)
        holding.drop_at = 0 if self._window else NEVER
        return holding

    def restore(self, owner: int, path: PrefixPath, computed: int, final: int) -> bool:
        """Give ``owner`` pages of its own for ``computed`` tokens, or answer False.

        Window slots only for what the next token sees.
        """
        root, need = self.tree.root, self.pages_for(computed)
        given_up = self.unseen(computed) if self._window else 0
        seen = need - given_up // self.page_size
        if self.tree.lacking(root, need, seen) > 0:
            return False
        self.tree.make_room(need, seen)
        holding = self._hold(owner, root, path, final)
        holding.given_up = given_up
        self.grew(holding, self.pool.take_late(need, seen))
        self.tokens += computed
        holding.end = computed
        return True

    def unseen(self, computed: int) -> int:
        """Leading tokens that the token after the ``computed`` ones does not see, in whole pages.

        At least a page is kept, so that a leaf of the tree always has window slots.
        """
        size = self.page_size
        return max(computed - max(self._window, size), 0) // size * size

    def extend(self, holding: Holding, computed: int, n: int) -> bool:
        """Make room for ``n`` tokens after the ``computed`` ones, or answer False."""
        if self.pages_for(computed + n) - self.pages_of(holding) > self.tree.available:
            return False
        self._grow(holding, computed, n)
        return True

    def extend_by_one(self, holding: Holding, computed: int) -> bool:
        """`extend` for the token after the ``computed`` ones."""
        if (holding.node.end // self.page_size + holding.pages) * self.page_size <= computed:
            if holding.drop_at <= computed:
                self.give_up(holding, computed)
            if not self.pool.free:
                if not self.tree.available:
                    return False
                self.tree.make_room(1, 1)
            holding.add_one(self.pool.take_one())
            if self.page_size > 1:
                self._note_surplus(holding)
        self.tokens += 1
        holding.end = computed + 1
        return True

    def give_up(self, holding: Holding, computed: int) -> None:
        """Give back its own window slots that the token after the ``computed`` ones does not see.

        Done once in a window's length.
        """
        holding.drop_at = computed + self._window
        size, start, until = self.page_size, holding.node.end, self.unseen(computed)
        given_up = max(holding.given_up, start)
        if until > given_up:
            own = holding.own()[(given_up - start) // size : (until - start) // size]
            self.pool.give_window(own)
            holding.given_up = until

    def pages_of(self, holding: Holding) -> int:
        """Pages of the path and its own."""
        return holding.node.end // self.page_size + holding.pages

    def _grow(self, holding: Holding, computed: int, n: int) -> None:
        missing = self.pages_for(computed + n) - self.pages_of(holding)
        if missing > 0:
            self.grew(holding, self._take(missing))
        self.tokens += n
        holding.end = computed + n

    def grew(self, holding: Holding, pages: Cells) -> None:
        """``holding`` has these pages too."""
        holding.add(pages)
        self._note_surplus(holding)

    def _note_surplus(self, holding: Holding) -> None:
        surplus = self.pages_of(holding) * self.page_size - holding.final
        if surplus > holding.surplus:
            self.surplus += surplus - holding.surplus
            holding.surplus = surplus

    def cache(self, holding: Holding, end: int) -> None:
        """Its first ``end`` tokens are computed: the full pages become part of the tree.

        It goes on with the tree's pages; those of its own that hold the same are freed.
        """
        if not self.caching:
            return
        before, own = holding.node, holding.own()
        pages = (end - before.end) // self.page_size
        stop = before.end + pages * self.page_size
        node, spare = self.tree.insert(before, holding.path, stop, own[:pages], holding.given_up)
        holding.mark = self.tree.move_lock(before, holding.mark, node)
        self.tokens -= stop - before.end
        holding.node = node
        holding.keep(own[pages:])
        self._give(own[:spare])

    def leave(self, owner: int, computed: int, cached: bool) -> None:
        """``owner`` leaves; its ``computed`` tokens are put into the tree if ``cached``."""
        holding = self.holdings.pop(owner)
        own, node = holding.own(), holding.node
        self.tokens -= max(holding.end, computed) - node.end
        self.surplus -= holding.surplus
        kept = spare = 0
        if cached and self.caching:
            kept = (computed - node.end) // self.page_size
            stop = node.end + kept * self.page_size
            _, spare = self.tree.insert(node, holding.path, stop, own[:kept], holding.given_up)
        self._give(own[:spare])
        self._give(own[kept:])
        self.tree.unlock(node, holding.mark)

    def _give(self, pages: Cells) -> None:
        if len(pages):
            self.pool.give(pages)

    def fork(
        self, parent: Holding, child: int, path: PrefixPath, computed: int, final: int
    ) -> tuple[int, int, int] | None:
        """Let ``child`` hold the ``computed`` tokens of ``parent``, or answer None.

        Full pages are shared, by way of the tree. The rest is copied to a page of the child's
        own; answers (source page, target page, tokens), with 0 tokens where nothing is copied.
        """
        if not self.caching or (computed % self.page_size and not self.tree.available):
            return None
        self.cache(parent, computed)
        node, rest = parent.node, computed % self.page_size
        holding = self._hold(child, node, path, final)
        holding.prefilling = False
        self._grow(holding, node.end, rest)
        return (int(parent.own()[0]), int(holding.own()[0]), rest) if rest else (0, 0, 0)

    # Looking at it.

    def pages_held(self, holding: Holding) -> Cells:
        """All pages of a sequence, in order of their tokens."""
        return np.concatenate([self.tree.pages_to(holding.node), holding.own()])

    def check_integrity(self) -> None:
        """Raise `IntegrityError` where pages are lost or doubled, or the tree is unsound."""
        owned = [node.pages for node in self.tree.nodes()]
        owned += [holding.own() for holding in self.holdings.values()]
        self.pool.check_integrity(np.concatenate([NO_PAGES, *owned]))
        self.tree.check_integrity(Counter(id(each.node) for each in self.holdings.values()))
        if sum(each.surplus for each in self.holdings.values()) != self.surplus:
            raise IntegrityError("surplus room is miscounted")
