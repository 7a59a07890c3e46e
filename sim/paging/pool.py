"""The pool of blocks: who is free and in which order, who is shared, and what blocks hold.

vLLM's ``block_pool.py`` and ``kv_cache_utils.FreeKVCacheBlockQueue``: the same blocks in the same
order, in another shape. The free queue is made of *runs*, the lists in which blocks were given
back. A run is read from its end, because a sequence's last block is to be reused first; so a
whole block table is freed by appending it, and blocks are taken by cutting a slice off a run.
What can be found stands on *shelves*, in the order of its tokens; so a prefix is looked up by
cutting slices off shelves, and told to others by putting slices there.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from sim.errors import IntegrityError
from sim.paging.shelves import Shelf

NULL_BLOCK: Final = 0


class BlockPool:
    """Blocks 1 .. ``size`` - 1; block 0 is the null block, which is never free nor found.

    free: number of free blocks. sharers: for every block with several holders, how many there
    are beyond the first. extra_holds: their sum. evictions: blocks taken while they could still
    be found. evicted: set it to a list to be told of each of these, in order. clock: rises with
    every change of what can be found.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.free = size - 1
        self.sharers: dict[int, int] = {}
        self.extra_holds = 0
        self.evictions = 0
        self.evicted: list[int] | None = None
        self.clock = 0
        self._queue: list[list[int]] = [list(range(size - 1, 0, -1))]
        self._head = 0
        """The place in the queue where its first run stands; what is before has been taken."""
        self._emptied = 0
        """Runs from there on that nothing is left of."""
        self._shelves: dict[int, Shelf] = {}
        self._shelves_to_tidy = 64
        self._tidied = 0
        """When shelves were thrown away last."""
        self._finds = False
        """Whether anything could ever be found."""
        self._shelf_of: list[Shelf | None] = [None] * size
        """Where a block can be found, if it can be."""
        self._entry_of = [0] * size
        """Which entry of its shelf a block is."""
        self._run_of: list[list[int] | None] = [None] * size
        """The run that a free block is in, if it was given back since anything could be found."""

    # Taking and giving.

    def take(self, n: int) -> list[int]:
        """The first ``n`` blocks of the free queue (there must be as many); keys are lost."""
        if n == 1:
            return [self.take_one()]
        taken: list[int] = []
        missing = n
        while missing:
            run = self._queue[self._head]
            if len(run) > missing:
                taken += run[: -missing - 1 : -1]
                del run[-missing:]
                missing = 0
            else:
                taken += run[::-1]
                missing -= len(run)
                self._head += 1
                if not run:
                    self._emptied -= 1
        self.free -= n
        if self._finds:
            self._evict(taken)
        return taken

    def take_one(self) -> int:
        """The first block of the free queue; it loses its key."""
        run = self._queue[self._head]
        while not run:
            self._head += 1
            self._emptied -= 1
            run = self._queue[self._head]
        block = run.pop()
        if not run:
            self._head += 1
        self.free -= 1
        self._run_of[block] = None
        shelf = self._shelf_of[block]
        if shelf is not None:
            self._evict_from(shelf, block)
        return block

    def _evict(self, taken: list[int]) -> None:
        """Blocks that were taken are on no shelf any more."""
        run_of, shelf_of = self._run_of, self._shelf_of
        for block in taken:
            run_of[block] = None
            shelf = shelf_of[block]
            if shelf is not None:
                self._evict_from(shelf, block)

    def _evict_from(self, shelf: Shelf, block: int) -> None:
        """Take a block that was taken off its shelf."""
        self._shelf_of[block] = None
        self.evictions += 1
        if self.evicted is not None:
            self.evicted.append(block)
        self.clock = shelf.changed = self.clock + 1
        if shelf.later:
            shelf.remove(self._entry_of[block], block)
        else:
            shelf.blocks[self._entry_of[block] - shelf.first] = NULL_BLOCK

    def give(self, blocks: list[int]) -> None:
        """Give one hold of each of ``blocks`` back, the last block first.

        The list, which has no null blocks, becomes the pool's own.
        """
        if self.sharers:
            blocks = self._unshared(blocks)
        if blocks:
            if self._finds:
                run_of = self._run_of
                for block in blocks:
                    run_of[block] = blocks
            self._queue.append(blocks)
            self.free += len(blocks)
            if self._head + self._emptied > 16 + len(self._queue) // 2:
                self._tidy_queue()

    def _unshared(self, blocks: list[int]) -> list[int]:
        """Those of ``blocks`` that had one holder; the others have one less now."""
        sharers, leading = self.sharers, 0
        for block in blocks:
            if block not in sharers:
                break
            leading += 1
        # A table starts with what it shares, but for what was computed twice, or in other groups.
        shared, alone = blocks[:leading], blocks[leading:]
        if not sharers.keys().isdisjoint(alone):
            shared += [block for block in alone if block in sharers]
            alone = [block for block in alone if block not in sharers]
        for block in shared:
            more = sharers[block]
            if more == 1:
                del sharers[block]
            else:
                sharers[block] = more - 1
        self.extra_holds -= len(shared)
        return alone

    # Sharing.

    def share(self, blocks: list[int]) -> None:
        """One more hold of each of ``blocks``, all of which are held."""
        sharers = self.sharers
        for block in blocks:
            sharers[block] = sharers.get(block, 0) + 1
        self.extra_holds += len(blocks)

    def touch(self, blocks: list[int]) -> None:
        """One more hold of each of ``blocks``, which can be found; free ones leave the queue."""
        run_of, leading = self._run_of, 0
        for block in blocks:
            if run_of[block] is not None:
                break
            leading += 1
        # What others hold comes first mostly, and the rest lies in the queue as one piece.
        held = blocks[:leading]
        if leading < len(blocks):
            rest = blocks[leading:]
            run = run_of[rest[0]]
            assert run is not None
            at = run.index(rest[0])
            if run[at : at + len(rest)] == rest:
                del run[at : at + len(rest)]
                self.free -= len(rest)
                self._emptied += not run
                for block in rest:
                    run_of[block] = None
            else:
                held += self._touch_each(rest)
        if held:
            self.share(held)

    def _touch_each(self, blocks: list[int]) -> list[int]:
        """`touch` blocks of which some are free, in whatever order; answers the others."""
        run_of = self._run_of
        held: list[int] = []
        free: list[int] = []
        before: list[int] | None = None
        for block in blocks:
            run = run_of[block]
            if run is None:
                held.append(block)
                continue
            if run is not before:
                if before is not None:
                    self._pull(before, free)
                    free = []
                before = run
            free.append(block)
            run_of[block] = None
        if before is not None:
            self._pull(before, free)
        return held

    def _tidy_queue(self) -> None:
        """Throw away what was taken, whenever it is more than half of the queue."""
        self._queue = [run for run in self._queue[self._head :] if run]
        self._head = self._emptied = 0

    def _pull(self, run: list[int], blocks: list[int]) -> None:
        """Take blocks out of the middle of a run."""
        at, n = run.index(blocks[0]), len(blocks)
        if run[at : at + n] == blocks:
            del run[at : at + n]
        else:
            gone = set(blocks)
            run[:] = [block for block in run if block not in gone]
        self.free -= n
        self._emptied += not run

    def free_among(self, blocks: list[int]) -> int:
        """How many of ``blocks``, which can be found or are null, are free."""
        run_of, free = self._run_of, 0
        for block in blocks:
            if run_of[block] is not None:
                free += 1
        return free

    def holds_of(self, block: int) -> int:
        """Holders of a block that is not free."""
        return 1 + self.sharers.get(block, 0)

    # The prefix cache.

    def find(self, number: int, first: int, stop: int) -> list[int]:
        """The blocks of the entries ``first .. stop - 1`` of a shelf, null where there is none.

        Of several, the one that has stood there for the longest time.
        """
        shelf = self._shelves.get(number)
        if shelf is None or first >= stop:
            return [NULL_BLOCK] * (stop - first)
        at = first - shelf.first
        if at < 0:
            missing = min(-at, stop - first)
            return [NULL_BLOCK] * missing + self.find(number, first + missing, stop)
        found = shelf.blocks[at : at + stop - first]
        if len(found) < stop - first:
            found += [NULL_BLOCK] * (stop - first - len(found))
        return found

    def find_leading(self, number: int, first: int, stop: int) -> list[int]:
        """The blocks of the entries from ``first`` on, up to the first that there is none of."""
        shelf = self._shelves.get(number)
        if shelf is None or first < shelf.first:
            return []
        at = first - shelf.first
        found = shelf.blocks[at : at + stop - first]
        if NULL_BLOCK in found:
            del found[found.index(NULL_BLOCK) :]
        return found

    def has_changed(self, numbers: list[int], since: int) -> bool:
        """Whether anything has come or gone on these shelves since the clock was ``since``."""
        if self._tidied > since:
            return True
        for number in numbers:
            shelf = self._shelves.get(number)
            if shelf is not None and shelf.changed > since:
                return True
        return False

    def is_found(self, block: int) -> bool:
        """Whether a block has a place on a shelf."""
        return self._shelf_of[block] is not None

    def place_of(self, block: int) -> tuple[int, int] | None:
        """The number of the shelf that a block stands on, and the entry."""
        shelf = self._shelf_of[block]
        return None if shelf is None else (shelf.number, self._entry_of[block])

    def publish(self, number: int, first: int, blocks: list[int]) -> None:
        """Let ``blocks``, held ones on no shelf or null, be found as entries from ``first`` on."""
        shelf = self._shelf(number, first)
        shelf_of, entry_of = self._shelf_of, self._entry_of
        if len(shelf.blocks) == first - shelf.first:
            shelf.blocks += blocks
        elif not shelf.put(first, blocks):
            for entry, block in enumerate(blocks, first):
                if block:
                    shelf.put_one(entry, block)
        entry = first
        for block in blocks:
            if block:
                shelf_of[block] = shelf
                entry_of[block] = entry
            entry += 1

    def publish_one(self, number: int, entry: int, block: int) -> None:
        """`publish` a single block."""
        shelf = self._shelf(number, entry)
        shelf.put_one(entry, block)
        self._shelf_of[block] = shelf
        self._entry_of[block] = entry

    def _shelf(self, number: int, first: int) -> Shelf:
        shelf = self._shelves.get(number)
        if shelf is None:
            if len(self._shelves) >= self._shelves_to_tidy:
                self._tidy()
            self._shelves[number] = shelf = Shelf(number, first)
            self._finds = True
        self.clock += 1
        shelf.changed = self.clock
        return shelf

    def _tidy(self) -> None:
        """Throw empty shelves away, every time that there are four times as many as were left."""
        self._tidied = self.clock
        self._shelves = {n: shelf for n, shelf in self._shelves.items() if any(shelf.blocks)}
        self._shelves_to_tidy = 4 * len(self._shelves) + 64

    def unpublish(self, block: int) -> None:
        """Let a block no longer be found."""
        shelf = self._shelf_of[block]
        if shelf is not None:
            self._shelf_of[block] = None
            shelf.remove(self._entry_of[block], block)
            self.clock += 1
            shelf.changed = self.clock

    def forget_keys(self) -> None:
        """Empty the prefix cache."""
        self._shelf_of = [None] * self.size
        self._tidied = self.clock = self.clock + 1
        self._shelves.clear()

    @property
    def cached_blocks(self) -> int:
        """Blocks that can be found, free or not."""
        return self.size - self._shelf_of.count(None)

    @property
    def cached_keys(self) -> int:
        """Distinct entries; fewer than blocks where the same content was computed twice."""
        return self.cached_blocks - sum(
            len(later) for shelf in self._shelves.values() for later in shelf.later.values()
        )

    # Looking at it.

    def free_queue(self) -> Iterator[int]:
        """Free blocks from the next to be taken to the last."""
        for run in self._queue[self._head :]:
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
        for block, shelf in enumerate(self._shelf_of):
            if shelf is not None and not shelf.has(self._entry_of[block], block):
                raise IntegrityError(f"block {block} cannot be found on its shelf")
        for number, shelf in self._shelves.items():
            if any(self.place_of(b) != (number, e) for e, b in shelf.places()):
                raise IntegrityError(f"blocks are found on shelf {number} that have lost their key")
        for run in self._queue[self._head :]:
            if any(self._shelf_of[b] is not None and self._run_of[b] is not run for b in run):
                raise IntegrityError("a free block that can be found is not where the queue has it")
        if any(self._run_of[block] is not None for block in held):
            raise IntegrityError("a held block is looked for in the free queue")
        if sum(not run for run in self._queue[self._head :]) != self._emptied:
            raise IntegrityError("emptied runs are miscounted")
