"""The pool of blocks: who is free and in which order, who is shared, and what blocks hold.

vLLM's ``block_pool.py`` and ``kv_cache_utils.FreeKVCacheBlockQueue``: the same blocks in the same
order, in another shape. The free queue is made of *runs*, the lists in which blocks were given
back. A run is read from its end, because a sequence's last block is to be reused first; so a
whole block table is freed by appending it, and blocks are taken by cutting a slice off a run.
What a taken block held is forgotten on the block's side only. The other way, from key to block,
is checked when it is gone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import repeat

from sim.errors import IntegrityError

NULL_BLOCK = 0


class BlockPool:
    """Blocks 1 .. ``size`` - 1; block 0 is the null block, which is never free nor found.

    free: number of free blocks. sharers: for every block with several holders, how many there
    are beyond the first. extra_holds: their sum. evictions: blocks taken while they could still
    be found. evicted: set it to a list to be told of each of these, in order.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.free = size - 1
        self.sharers: dict[int, int] = {}
        self.extra_holds = 0
        self.evictions = 0
        self.evicted: list[int] | None = None
        self._queue: deque[list[int]] = deque([list(range(size - 1, 0, -1))])
        self._emptied = 0
        self._key_of = [0] * size
        """0: the block cannot be found."""
        self._oldest: dict[int, int] = {}
        """The block that has had a key for the longest time, if it still has."""
        self._later: dict[int, list[int]] = {}
        """Blocks that were given the same key later, in order, if they still have it."""
        self._run_of: list[list[int]] = [[]] * size
        """The run that a block was last given back in, whether it still is there or not."""

    # Taking and giving.

    def take(self, n: int) -> list[int]:
        """The first ``n`` blocks of the free queue (there must be as many); keys are lost."""
        taken: list[int] = []
        queue = self._queue
        if n == 1:
            return [self.take_one()]
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
                run.clear()
        self.free -= n
        if self._oldest:
            key_of = self._key_of
            found = [block for block in taken if key_of[block]]
            if found:
                self.evictions += len(found)
                if self.evicted is not None:
                    self.evicted += found
                for block in found:
                    key_of[block] = 0
        return taken

    def take_one(self) -> int:
        """The first block of the free queue; it loses its key."""
        queue = self._queue
        while not queue[0]:
            queue.popleft()
            self._emptied -= 1
        run = queue[0]
        block = run.pop()
        if not run:
            queue.popleft()
        self.free -= 1
        if self._key_of[block]:
            self._key_of[block] = 0
            self.evictions += 1
            if self.evicted is not None:
                self.evicted.append(block)
        return block

    def give(self, blocks: list[int]) -> None:
        """Give one hold of each of ``blocks`` back, the last block first.

        The list, which has no null blocks, becomes the pool's own.
        """
        if self.sharers:
            blocks = self._unshared(blocks)
        if blocks:
            if self._oldest:
                run_of = self._run_of
                for block in blocks:
                    run_of[block] = blocks
            self._queue.append(blocks)
            self.free += len(blocks)

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
        held = blocks
        for run, gone in self._by_run(blocks):
            self.free -= len(gone)
            held = [block for block in held if block not in gone]
            run[:] = [block for block in run if block not in gone]
            self._emptied += not run
        if self._emptied > 16 + len(self._queue) // 2:
            self._queue = deque(run for run in self._queue if run)
            self._emptied = 0
        if held:
            self.share(held)

    def free_among(self, blocks: list[int]) -> int:
        """How many of ``blocks``, all with keys or null, are free."""
        return sum(len(inside) for _, inside in self._by_run(blocks))

    def _by_run(self, blocks: list[int]) -> list[tuple[list[int], set[int]]]:
        """The runs of the free queue that any of ``blocks`` are in, and which are in each."""
        run_of = self._run_of
        found: list[tuple[list[int], set[int]]] = []
        before: list[int] = []
        for block in blocks:
            run = run_of[block]
            if run and run is not before and all(run is not other for other, _ in found):
                inside = set(run).intersection(blocks)
                if inside:
                    found.append((run, inside))
            before = run
        return found

    def holds_of(self, block: int) -> int:
        """Holders of a block that is not free."""
        return 1 + self.sharers.get(block, 0)

    # The prefix cache.

    def find(self, key: int) -> int:
        """The block that has had ``key`` for the longest time, or the null block."""
        block = self._oldest.get(key, NULL_BLOCK)
        if block and self._key_of[block] != key:
            return self._next_oldest(key)
        return block

    def find_leading(self, keys: list[int]) -> list[int]:
        """Blocks with the first, second, ... of ``keys``, up to the first that none has."""
        found: list[int] = list(iter(map(self._oldest.get, keys).__next__, None))
        if list(map(self._key_of.__getitem__, found)) == keys[: len(found)]:
            return found
        blocks = []
        for key in keys:
            block = self.find(key)
            if not block:
                break
            blocks.append(block)
        return blocks

    def find_each(self, keys: list[int]) -> list[int]:
        """For every key the block that `find` finds."""
        found = list(map(self._oldest.get, keys, repeat(NULL_BLOCK)))
        held = list(map(self._key_of.__getitem__, found))
        if held == keys:
            return found
        return [
            block if key == own or not block else self.find(key)
            for block, own, key in zip(found, held, keys, strict=True)
        ]

    def key_of(self, block: int) -> int:
        """The key of a block, 0 if it cannot be found."""
        return self._key_of[block]

    def publish(self, keys: list[int], blocks: list[int]) -> None:
        """Let ``blocks``, which are held and have no key, be found under ``keys``."""
        if len(keys) == 1:
            self.publish_one(keys[0], blocks[0])
            return
        key_of, oldest = self._key_of, self._oldest
        if not oldest.keys().isdisjoint(keys) and self._anyone_has(keys):
            for key, block in zip(keys, blocks, strict=True):
                self.publish_one(key, block)
            return
        for key, block in zip(keys, blocks, strict=True):
            oldest[key] = block
            key_of[block] = key
        if len(oldest) > 4 * self.size + 64:
            self._forget_lost_keys()

    def _anyone_has(self, keys: list[int]) -> bool:
        """Whether a block can be found under any of ``keys``, or could for want of the oldest."""
        if self._later and not self._later.keys().isdisjoint(keys):
            return True
        key_of, oldest = self._key_of, self._oldest
        return any(key_of[oldest[key]] == key for key in keys if key in oldest)

    def publish_one(self, key: int, block: int) -> None:
        """Let a block, which is held and has no key, be found under ``key``."""
        if self.find(key):
            self._append_later(key, block)
        else:
            self._oldest[key] = block
        self._key_of[block] = key

    def unpublish(self, block: int) -> None:
        """Let a held block no longer be found, as it is to be written again."""
        self._key_of[block] = 0

    def forget_keys(self) -> None:
        """Empty the prefix cache."""
        self._key_of = [0] * self.size
        self._oldest.clear()
        self._later.clear()

    def _append_later(self, key: int, block: int) -> None:
        """Queue up for a key that others have. A block that once had it too queues up anew."""
        later = [other for other in self._later.get(key, ()) if self._key_of[other] == key]
        self._later[key] = [*later, block]

    def _next_oldest(self, key: int) -> int:
        """Who has ``key`` now that the oldest has lost it; the null block if nobody has."""
        later = [block for block in self._later.pop(key, ()) if self._key_of[block] == key]
        if not later:
            del self._oldest[key]
            return NULL_BLOCK
        self._oldest[key] = later[0]
        if len(later) > 1:
            self._later[key] = later[1:]
        return later[0]

    def _forget_lost_keys(self) -> None:
        for key in list(self._later):
            self.find(key)
        key_of = self._key_of
        self._oldest = {key: b for key, b in self._oldest.items() if key_of[b] == key}

    @property
    def cached_blocks(self) -> int:
        """Blocks that can be found, free or not."""
        return self.size - self._key_of.count(0)

    @property
    def cached_keys(self) -> int:
        """Distinct keys; fewer than blocks where the same content was computed twice."""
        return len(set(self._key_of)) - 1

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
        for block, key in enumerate(self._key_of):
            if key and block != self._oldest.get(key) and block not in self._later.get(key, ()):
                raise IntegrityError(f"block {block} cannot be found under its key")
        for run in self._queue:
            if any(self._key_of[b] and self._run_of[b] is not run for b in run):
                raise IntegrityError("a free block with a key cannot be found in the queue")
        if sum(not run for run in self._queue) != self._emptied:
            raise IntegrityError("emptied runs are miscounted")
