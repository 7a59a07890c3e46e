"""The radix tree where layers with a window have slots of their own, which may go first.

SGLang's ``SWARadixCache`` (``python/sglang/srt/mem_cache/swa_radix_cache.py``).
"""

from __future__ import annotations

from itertools import count

from sim.errors import IntegrityError
from sim.eviction.base import Evictor, Key
from sim.radix.node import Node
from sim.radix.paired_pool import NO_PAGE, PairedPool
from sim.radix.tree import RadixTree
from sim.step import Cells
from workloads.request import PrefixPath


class WindowedTree(RadixTree):
    """Edges whose window slots were evicted stay as tombstones, without an end in them.

    A prefix can be taken over only where the window before its end is there, or everything. A
    sequence locks window slots as far up as its window reaches; edges are cut there, so that no
    more is locked (SGLang cuts those that it adds). The least recently used window slots go first,
    those near the root before those behind them; a leaf goes with all it has, and so do tombstones
    that become leaves.

    window_evictable, window_protected: tokens on edges that have window slots and whose window
    slots nobody has locked, and on the others. window_shared: tokens on edges whose window slots
    several sequences have locked. window_evicted: tokens whose window slots alone were evicted.
    """

    def __init__(
        self,
        pool: PairedPool,
        page_size: int,
        evictor: Evictor,
        window_evictor: Evictor,
        window: int,
    ) -> None:
        super().__init__(pool, page_size, evictor)
        self.window_evictable = self.window_protected = self.window_shared = 0
        self.window_evicted = 0
        self._pools = pool
        self._window_evictor = window_evictor
        self._window = window
        self._tail = -(-window // page_size) * page_size
        self._marks = count(1)

    # Finding.

    def match(self, path: PrefixPath, tokens: int) -> Node:
        """The end of the longest cached prefix whose last window is there; see the base class."""
        stop = tokens // self.page_size * self.page_size
        node = best = self.root
        intact = self._window
        while (child := self._child(node, path, stop)) is not None:
            if child.tombstone:
                best = node if intact >= self._window else best
                intact = 0
            agreed = child.agreement(path, stop) // self.page_size * self.page_size
            is_left = agreed < child.end
            node = self._cut(child, agreed) if is_left else child
            intact += 0 if node.tombstone else node.size
            if is_left:
                break
        best = node if intact >= self._window else best
        self._renew(best)
        return best

    def _cut(self, node: Node, at: int) -> Node:
        upper = super()._cut(node, at)
        upper.tombstone, upper.window_locks = node.tombstone, node.window_locks
        upper.mark, node.mark = node.mark, 0
        if not node.tombstone:
            self._window_evictor.insert(upper.key, upper.size, upper.end)
            self._window_evictor.renew(node.key)
        return upper

    def _renew(self, node: Node) -> None:
        super()._renew(node)
        for each in reversed(list(self.path_to(node))):
            if not each.tombstone:
                self._window_evictor.renew(each.key)

    # Growing.

    def insert(
        self, node: Node, path: PrefixPath, stop: int, pages: Cells, given_up: int = 0
    ) -> tuple[Node, int]:
        """See the base class. Tombstones get the window slots of who has computed them again."""
        start, size = node.end, self.page_size
        deepest = node
        while (child := self._child(deepest, path, stop)) is not None:
            agreed = child.agreement(path, stop) // size * size
            if agreed < child.end:
                child = self._cut(child, agreed)
            if child.tombstone and given_up < child.end:
                if given_up > child.start:
                    self._cut(child, given_up)
                self._revive(child, pages[(child.start - start) // size :])
            deepest = child
        spare = (deepest.end - start) // size
        if deepest.end < stop:
            if given_up >= stop:
                raise IntegrityError("a sequence without a window cannot go into the tree")
            if given_up > deepest.end:
                gone = (given_up - start) // size
                deepest = self._grow(deepest, path, given_up, pages[spare:gone])
                self._bury(deepest)
            rest = pages[(deepest.end - start) // size :]
            deepest = self._grow(deepest, path, stop, rest)
        self._renew(deepest)
        return deepest, spare

    def _grow(self, parent: Node, path: PrefixPath, stop: int, pages: Cells) -> Node:
        node = super()._grow(parent, path, stop, pages)
        self._window_evictor.insert(node.key, node.size, node.end)
        self.window_evictable += node.size
        return node

    def _revive(self, node: Node, pages: Cells) -> None:
        """A tombstone takes over the window slots of ``pages``, which hold the same tokens."""
        self._pools.move_window(pages[: len(node.pages)], node.pages)
        node.tombstone = False
        self._window_evictor.insert(node.key, node.size, node.end)
        self.window_evictable += node.size

    def _bury(self, node: Node) -> None:
        """An edge whose window slots are gone becomes a tombstone."""
        self._window_evictor.remove(node.key)
        self._mark_buried(node)

    def _mark_buried(self, node: Node) -> None:
        node.tombstone = True
        self.window_evictable -= node.size

    # Locks.

    def move_lock(self, before: Node, mark: int, node: Node) -> int:
        """See the base class; window slots are locked from ``node`` on up, as far as needed."""
        super().move_lock(before, mark, node)
        self._unlock_window(before, mark)
        return self._lock_window(node)

    def unlock(self, node: Node, mark: int) -> None:
        """See the base class."""
        super().unlock(node, mark)
        self._unlock_window(node, mark)

    def _lock_window(self, node: Node) -> int:
        last, locked = None, 0
        for each in self.path_to(node):
            if locked >= self._window or each.tombstone:
                break
            if not each.window_locks and locked + each.size > self._tail:
                self._cut(each, each.end - self._tail + locked)
            each.window_locks += 1
            if each.window_locks == 1:
                self.window_evictable -= each.size
                self.window_protected += each.size
            elif each.window_locks == 2:
                self.window_shared += each.size
            locked += each.size
            last = each
        if last is None:
            return 0
        last.mark = last.mark or next(self._marks)
        return last.mark

    def _unlock_window(self, node: Node, mark: int) -> None:
        if not mark:
            return
        for each in self.path_to(node):
            each.window_locks -= 1
            if each.window_locks == 0:
                self.window_evictable += each.size
                self.window_protected -= each.size
            elif each.window_locks == 1:
                self.window_shared -= each.size
            if each.mark == mark:
                return

    # Eviction.

    @property
    def available(self) -> int:
        """Pages that are free with both halves, or can be made so."""
        pools, size = self._pools, self.page_size
        return min(
            pools.full.free + self.evictable // size,
            pools.window.free + self.window_evictable // size,
        )

    def lacking(self, node: Node, pages: int, window_pages: int) -> int:
        """See the base class; the worse of both pools."""
        pools, size = self._pools, self.page_size
        kept = seen = 0
        for each in self.path_to(node):
            if seen >= self._window or each.tombstone:
                break
            kept += 0 if each.window_locks else min(each.size, self._tail - seen)
            seen += each.size
        full = pages - pools.full.free - (self.evictable - self._kept(node)) // size
        window = window_pages - pools.window.free - (self.window_evictable - kept) // size
        return max(full, window)

    def make_room(self, pages: int, window_pages: int) -> None:
        """Leaves for the first pool; then window slots for the other, where still needed."""
        pools = self._pools
        self._evict_leaves(pages - pools.full.free)
        while pools.window.free < window_pages:
            key = self._window_evictor.evict(self._window_may_go)
            if key is None:
                raise IntegrityError(f"{self.window_evictable} window tokens, but no edge to evict")
            node = self._nodes[key]
            if node.children:
                self._mark_buried(node)
                pools.give_window(node.pages)
                self.window_evicted += node.size
            else:
                self._evictor.remove(key)
                self._mark_buried(node)
                self._take_off(node)

    def _window_may_go(self, key: Key) -> bool:
        return not self._nodes[key].window_locks

    def _evict(self, leaf: Node) -> int:
        """A leaf with its window slots, and the tombstones that become leaves by it."""
        if not leaf.tombstone:
            self._bury(leaf)
        return self._take_off(leaf)

    def _take_off(self, leaf: Node) -> int:
        parent = leaf.parent
        tokens = super()._evict(leaf)
        while parent is not None and parent.tombstone and not (parent.children or parent.locks):
            self._evictor.remove(parent.key)
            above = parent.parent
            tokens += super()._evict(parent)
            parent = above
        return tokens

    # Looking at it.

    @property
    def evictions(self) -> int:
        """Pages evicted so far, also those that kept their slots of the other pool."""
        return super().evictions + self.window_evicted // self.page_size

    def check_integrity(self, locks: dict[int, int]) -> None:
        """See the base class; also that window slots are where they are said to be."""
        super().check_integrity(locks)
        counts = [0, 0, 0]
        for node in self.nodes():
            halves = self._pools.window_of[node.pages]
            if ((halves == NO_PAGE) != node.tombstone).any():
                raise IntegrityError(f"{node!r} has wrong window slots")
            if node.window_locks > node.locks or (node.tombstone and node.window_locks):
                raise IntegrityError(f"{node!r} has {node.window_locks} locks of its window")
            if node.tombstone and not node.children and not node.locks:
                raise IntegrityError(f"{node!r} is a tombstone and a leaf")
            if not node.tombstone:
                counts[0 if not node.window_locks else 1] += node.size
                counts[2] += node.size if node.window_locks > 1 else 0
        if counts != [self.window_evictable, self.window_protected, self.window_shared]:
            raise IntegrityError(f"counted {counts} window tokens evictable, protected, shared")
