"""The tree of what is cached: matched, grown, locked, and evicted leaf by leaf.

SGLang's ``RadixCache`` (``python/sglang/srt/mem_cache/radix_cache.py``). An edge is a run of
tokens, so everything costs as many operations as there are edges, however long they are.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from sim.errors import IntegrityError
from sim.eviction.base import Evictor, Key
from sim.radix.node import Node
from sim.radix.pool import AnyPool
from sim.step import Cells
from workloads.prefix import branch_at
from workloads.request import PrefixPath

NO_PAGES: Cells = np.empty(0, dtype=np.int64)


class RadixTree:
    """Edges over pages of ``page_size`` tokens, in whole pages.

    evictable, protected: tokens on edges that nobody has locked, and on the others. shared: tokens
    on edges that several sequences have locked. evicted: tokens evicted so far.
    """

    def __init__(self, pool: AnyPool, page_size: int, evictor: Evictor) -> None:
        self.page_size = page_size
        self.root = Node(None, (), 0, 0, NO_PAGES)
        self.evictable = self.protected = self.shared = self.evicted = 0
        self._pool = pool
        self._evictor = evictor
        self._nodes: dict[Key, Node] = {}

    # Finding.

    def match(self, path: PrefixPath, tokens: int) -> Node:
        """The node where the longest cached prefix of the first ``tokens`` tokens ends.

        An edge that is left midway is cut there. All that is walked over is renewed, and of an
        edge that is cut both parts.
        """
        node = self._descend(self.root, path, tokens // self.page_size * self.page_size)
        self._renew(node)
        return node

    def hit(self, node: Node) -> None:
        """A sequence takes over the path to ``node``."""
        for each in self.path_to(node):
            self._evictor.touch(each.key)

    def _child(self, node: Node, path: PrefixPath, stop: int) -> Node | None:
        """The child that agrees with ``path`` in its first page at least."""
        first = node.end + self.page_size
        return node.children.get(branch_at(path, first)) if first <= stop else None

    def _descend(self, node: Node, path: PrefixPath, stop: int) -> Node:
        """The deepest node on the path, which is made if it ends within an edge."""
        while (child := self._child(node, path, stop)) is not None:
            agreed = child.agreement(path, stop) // self.page_size * self.page_size
            if agreed < child.end:
                return self._cut(child, agreed)
            node = child
        return node

    def _cut(self, node: Node, at: int) -> Node:
        """Cut an edge in two; the new, upper one, which is locked like the lower one."""
        parent, size = node.parent, self.page_size
        assert parent is not None
        pages = (at - node.start) // size
        upper = Node(parent, node.path, node.start, at, node.pages[:pages])
        upper.locks = node.locks
        parent.children[branch_at(node.path, node.start + size)] = upper
        upper.children[branch_at(node.path, at + size)] = node
        node.parent, node.start, node.pages = upper, at, node.pages[pages:]
        self._nodes[upper.key] = upper
        self._evictor.renew(node.key)
        self._evictor.insert(upper.key, upper.size, upper.end)
        return upper

    def _renew(self, node: Node) -> None:
        """The path to ``node`` is in use: parents are younger than their children."""
        for each in self.path_to(node):
            self._evictor.renew(each.key)

    def path_to(self, node: Node) -> Iterator[Node]:
        """``node`` and what is above it, upwards, without the root."""
        while node.parent is not None:
            yield node
            node = node.parent

    # Growing and shrinking.

    def insert(
        self, node: Node, path: PrefixPath, stop: int, pages: Cells, given_up: int = 0
    ) -> tuple[Node, int]:
        """Make a sequence's tokens part of the tree, as far as they are not.

        node: where its first ``node.end`` tokens end. pages: of the tokens from there up to
        ``stop``, whole pages. given_up: leading tokens that have no window slots any more. Answers
        the node where they end, and how many of the leading ``pages`` the tree has no use for, as
        it has these tokens in other ones.
        """
        start = node.end
        deepest = self._descend(node, path, stop)
        spare = (deepest.end - start) // self.page_size
        if deepest.end < stop:
            deepest = self._grow(deepest, path, stop, pages[spare:])
        self._renew(deepest)
        return deepest, spare

    def _grow(self, parent: Node, path: PrefixPath, stop: int, pages: Cells) -> Node:
        node = Node(parent, path, parent.end, stop, pages)
        parent.children[branch_at(path, parent.end + self.page_size)] = node
        self._nodes[node.key] = node
        self._evictor.insert(node.key, node.size, node.end)
        self.evictable += node.size
        return node

    def lock(self, node: Node) -> int:
        """One sequence more runs on the path to ``node``; what `unlock` has to be told of it."""
        return self.move_lock(self.root, 0, node)

    def move_lock(self, before: Node, mark: int, node: Node) -> int:
        """A sequence that ran on the path to ``before`` runs on to ``node``, below it, now."""
        for each in self.path_to(node):
            if each is before:
                break
            each.locks += 1
            if each.locks == 1:
                self.evictable -= each.size
                self.protected += each.size
            elif each.locks == 2:
                self.shared += each.size
        return 0

    def unlock(self, node: Node, mark: int) -> None:
        """One sequence less runs on the path to ``node``."""
        for each in self.path_to(node):
            each.locks -= 1
            if each.locks == 0:
                self.evictable += each.size
                self.protected -= each.size
            elif each.locks == 1:
                self.shared -= each.size

    @property
    def available(self) -> int:
        """Pages that are free, or can be made so."""
        return self._pool.free + self.evictable // self.page_size

    def lacking(self, node: Node, pages: int, window_pages: int) -> int:
        """How many of ``pages`` cannot be had while the path to ``node`` stays; 0 or less: none.

        Of window slots only ``window_pages`` are needed, where they have a pool of their own.
        """
        del window_pages
        return pages - self.available + self._kept(node) // self.page_size

    def _kept(self, node: Node) -> int:
        """Tokens on the path to ``node`` that could be evicted."""
        kept = 0
        for each in self.path_to(node):
            if each.locks:
                break
            kept += each.size
        return kept

    def make_room(self, pages: int, window_pages: int) -> None:
        """Evict whole leaves one by one until ``pages`` pages are free; there must be enough.

        Of window slots only ``window_pages`` are needed, where they have a pool of their own.
        """
        del window_pages
        self._evict_leaves(pages - self._pool.free)

    def _evict_leaves(self, pages: int) -> None:
        missing = pages * self.page_size
        while missing > 0:
            key = self._evictor.evict(self._may_go)
            if key is None:
                raise IntegrityError(f"{self.evictable} tokens can be evicted, but no leaf")
            missing -= self._evict(self._nodes[key])

    def _may_go(self, key: Key) -> bool:
        node = self._nodes[key]
        return not node.locks and not node.children

    def _evict(self, leaf: Node) -> int:
        """Take a leaf off, which the evictor has let go; its tokens."""
        assert leaf.parent is not None
        del leaf.parent.children[branch_at(leaf.path, leaf.start + self.page_size)]
        del self._nodes[leaf.key]
        self._pool.give(leaf.pages)
        self.evictable -= leaf.size
        self.evicted += leaf.size
        return leaf.size

    # Looking at it.

    @property
    def evictions(self) -> int:
        """Pages evicted so far."""
        return self.evicted // self.page_size

    def pages_to(self, node: Node) -> Cells:
        """The pages of all tokens up to the end of ``node``, in order."""
        pieces = [each.pages for each in self.path_to(node)]
        return np.concatenate(pieces[::-1]) if pieces else NO_PAGES

    def nodes(self) -> Iterator[Node]:
        """All edges."""
        return iter(self._nodes.values())

    def check_integrity(self, locks: dict[int, int]) -> None:
        """Raise `IntegrityError` where the tree is unsound.

        locks: by ``id`` of a node, how many sequences hold on to it itself.
        """
        counts = [0, 0, 0]
        for key, node in self._nodes.items():
            size, expected = self.page_size, locks.get(id(node), 0)
            expected += sum(child.locks for child in node.children.values())
            if key != node.key or node.start % size or node.end % size or node.size < size:
                raise IntegrityError(f"{node!r} lies wrong")
            if node.locks != expected or len(node.pages) * size != node.size:
                raise IntegrityError(f"{node!r} should have {expected} locks, {node.size} tokens")
            if node.parent is None or node.parent.end != node.start:
                raise IntegrityError(f"{node!r} does not go on from its parent")
            counts[0 if not node.locks else 1] += node.size
            counts[2] += node.size if node.locks > 1 else 0
        if counts != [self.evictable, self.protected, self.shared]:
            raise IntegrityError(f"counted {counts} tokens evictable, protected, shared")
