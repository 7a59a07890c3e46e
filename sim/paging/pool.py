"""The pool of blocks: who is free and in which order, who is shared, and what blocks hold.

vLLM's ``block_pool.py`` and ``kv_cache_utils.FreeKVCacheBlockQueue``, with the same order of
blocks but another shape: the free queue is made of *runs*, the lists in which blocks were given
back. A run is read from its end, because a sequence's last block is to be reused first; so a
whole block table is freed by appending it, and blocks are taken by cutting a slice off a run.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

from sim.errors import IntegrityError

NULL_BLOCK = 0


class BlockPool:
    """Blocks 1 .. ``size`` - 1; block 0 is the null block, which is never free nor hashed.

    free: number of free blocks. sharers: for every block with several holders, how many there
    are beyond the first. extra_holds: their sum. evicted: set it to a list to be told of every
    block that loses its key, in order.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.free = size - 1
        self.sharers: dict[int, int] = {}
        self.extra_holds = 0
        self.evicted: list[int] | None = None
        self._queue: deque[list[int]] = deque([list(range(size - 1, 0, -1))])
        self._emptied = 0
        self._key_of: dict[int, int] = {}
        self._oldest: dict[int, int] = {}
        self._copies: dict[int, list[int]] = {}
        self._run_of: dict[int, list[int]] = {}
        """The run of the free queue that a free block with a key is in."""
        self.find = self._oldest.get
        """The oldest block that holds a key, or None."""

    # Taking and giving.

    def take(self, n: int) -> list[int]:
        """The first ``n`` blocks of the free queue (there must be as many); keys are lost."""
        taken: list[int] = []
        queue = self._queue
        missing = n
        while missing:
            run = queue[0]
            if len(run) > missing:
                taken += run[: -missing - 1 : -1]
                del run[-missing:]
                missing = 0
            else:
                taken += run[::-1]
                missing -= len(run)
                queue.popleft()
                self._emptied -= not run
        self.free -= n
        if self._key_of:
            self._forget(taken)
        return taken

    def take_one(self) -> int:
        """The first block of the free queue; it loses its key."""
        queue = self._queue
        while not queue[0]:
            queue.popleft()
            self._emptied -= 1
        block = queue[0].pop()
        if not queue[0]:
            queue.popleft()
        self.free -= 1
        if block in self._key_of:
            self._forget([block])
        return block

    def give(self, blocks: list[int]) -> int:
        """Give one hold of each of ``blocks`` back, the last block first; how many became free.

        The list, without null blocks, becomes the pool's own.
        """
        if self.sharers:
            blocks = self._unshared(blocks)
        if not blocks:
            return 0
        if self._key_of:
            run_of, key_of = self._run_of, self._key_of
            for block in blocks:
                if block in key_of:
                    run_of[block] = blocks
        self._queue.append(blocks)
        self.free += len(blocks)
        return len(blocks)

    def _unshared(self, blocks: list[int]) -> list[int]:
        """Those of ``blocks`` that had one holder; the others have one less now."""
        sharers = self.sharers
        if sharers.keys().isdisjoint(blocks):
            return blocks
        alone = []
        for block in blocks:
            more = sharers.get(block)
            if more is None:
                alone.append(block)
            else:
                self.extra_holds -= 1
                if more == 1:
                    del sharers[block]
                else:
                    sharers[block] = more - 1
        return alone

    # Sharing.

    def share(self, blocks: list[int]) -> None:
        """One more hold of each of ``blocks``, all of which are held."""
        sharers = self.sharers
        for block in blocks:
            sharers[block] = sharers.get(block, 0) + 1
        self.extra_holds += len(blocks)

    def touch(self, blocks: list[int]) -> None:
        """One more hold of each of ``blocks``, all with keys; free ones leave the queue."""
        held = []
        leaving: dict[int, tuple[list[int], set[int]]] = {}
        for block in blocks:
            run = self._run_of.pop(block, None)
            if run is None:
                held.append(block)
            else:
                leaving.setdefault(id(run), (run, set()))[1].add(block)
        for run, gone in leaving.values():
            self.free -= len(gone)
            run[:] = [block for block in run if block not in gone]
            self._emptied += not run
        if self._emptied > 16 + len(self._queue) // 2:
            self._queue = deque(run for run in self._queue if run)
            self._emptied = 0
        if held:
            self.share(held)

    def holds_of(self, block: int) -> int:
        """Holders of a block that is not free."""
        return 1 + self.sharers.get(block, 0)

    def free_among(self, blocks: list[int]) -> int:
        """How many of ``blocks``, all with keys or null, are free."""
        run_of = self._run_of
        return sum(1 for block in blocks if block in run_of)

    # The prefix cache.

    def key_of(self, block: int) -> int | None:
        """The key of a block, or None."""
        return self._key_of.get(block)

    def publish(self, keys: Sequence[int], blocks: list[int]) -> None:
        """Let ``blocks``, which are held and have no key, be found under ``keys``."""
        if self._oldest.keys().isdisjoint(keys):
            self._oldest.update(zip(keys, blocks, strict=True))
        else:
            for key, block in zip(keys, blocks, strict=True):
                if key in self._oldest:
                    self._copies.setdefault(key, []).append(block)
                else:
                    self._oldest[key] = block
        self._key_of.update(zip(blocks, keys, strict=True))

    def unpublish(self, block: int) -> None:
        """Let a held block no longer be found, as it is to be written again."""
        key = self._key_of.pop(block, None)
        if key is not None:
            self._withdraw(key, block)

    def forget_keys(self) -> None:
        """Empty the prefix cache."""
        for known in (self._key_of, self._oldest, self._copies, self._run_of):
            known.clear()

    def _forget(self, taken: list[int]) -> None:
        """Drop the keys of blocks that were free until now."""
        key_of, run_of, evicted = self._key_of, self._run_of, self.evicted
        for block in taken:
            key = key_of.pop(block, None)
            if key is not None:
                del run_of[block]
                if evicted is not None:
                    evicted.append(block)
                self._withdraw(key, block)

    def _withdraw(self, key: int, block: int) -> None:
        others = self._copies.get(key)
        if others is None:
            del self._oldest[key]
            return
        if self._oldest[key] == block:
            self._oldest[key] = others.pop(0)
        else:
            others.remove(block)
        if not others:
            del self._copies[key]

    @property
    def cached_blocks(self) -> int:
        """Blocks that hold a key, free or not."""
        return len(self._key_of)

    @property
    def cached_keys(self) -> int:
        """Distinct keys; fewer than blocks where the same content was computed twice."""
        return len(self._oldest)

    # Looking at it.

    def free_queue(self) -> Iterator[int]:
        """Free blocks from the next to be taken to the last."""
        for run in self._queue:
            yield from reversed(run)

    def check_integrity(self, held: dict[int, int]) -> None:
        """Raise `IntegrityError` unless ``held`` (block -> holders) and the pool agree."""
        queue = list(self.free_queue())
        if len(queue) != self.free or len(set(queue)) != len(queue) or NULL_BLOCK in queue:
            raise IntegrityError(f"the free queue has {len(queue)} blocks, counted {self.free}")
        if held.keys() & set(queue) or len(held) + len(queue) != self.size - 1:
            raise IntegrityError("a block is lost, or both free and held")
        shared = {block: n - 1 for block, n in held.items() if n > 1}
        if shared != self.sharers or sum(shared.values()) != self.extra_holds:
            raise IntegrityError(f"holders differ: {shared} held, {self.sharers} counted")
        found = sorted([*self._oldest.values(), *(b for c in self._copies.values() for b in c)])
        if found != sorted(self._key_of):
            raise IntegrityError("the prefix cache and its blocks disagree")
        keyed_and_free = {block for block in queue if block in self._key_of}
        if keyed_and_free != self._run_of.keys():
            raise IntegrityError("a free block with a key cannot be found in the queue")
        if sum(not run for run in self._queue) != self._emptied:
            raise IntegrityError("emptied runs are miscounted")
