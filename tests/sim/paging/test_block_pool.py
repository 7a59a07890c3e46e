"""The block pool against a slow one that keeps a plain queue and vLLM's own kind of key map."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sim.errors import IntegrityError
from sim.paging.pool import BlockPool

SHELVES = st.integers(-2, 2)
ENTRIES = st.integers(0, 9)

Place = tuple[int, int]
"""The number of a shelf and an entry of it: what blocks are found by."""


class SlowPool:
    """A list of free blocks, holders by block, for every place its blocks in order of arrival."""

    def __init__(self, size: int) -> None:
        self.queue = list(range(1, size))
        self.holders: dict[int, int] = {}
        self.blocks_of: dict[Place, dict[int, None]] = {}
        self.place_of: dict[int, Place] = {}
        self.evicted: list[int] = []

    def take(self, n: int) -> list[int]:
        taken, self.queue = self.queue[:n], self.queue[n:]
        for block in taken:
            self.holders[block] = 1
            if block in self.place_of:
                self.evicted.append(block)
                self.lose_place(block)
        return taken

    def lose_place(self, block: int) -> None:
        place = self.place_of.pop(block)
        del self.blocks_of[place][block]
        if not self.blocks_of[place]:
            del self.blocks_of[place]

    def give(self, blocks: list[int]) -> None:
        for block in reversed(blocks):
            self.holders[block] -= 1
            if not self.holders[block]:
                del self.holders[block]
                self.queue.append(block)

    def touch(self, blocks: list[int]) -> None:
        for block in blocks:
            if block in self.queue:
                self.queue.remove(block)
            self.holders[block] = self.holders.get(block, 0) + 1

    def publish(self, place: Place, block: int) -> None:
        self.blocks_of.setdefault(place, {})[block] = None
        self.place_of[block] = place


class PoolMachine(RuleBasedStateMachine):
    """Sequences of what the block manager asks of a pool."""

    @initialize(size=st.integers(4, 24))
    def make(self, size: int) -> None:
        self.pool, self.slow = BlockPool(size), SlowPool(size)
        self.pool.evicted = []
        self.tables: list[list[int]] = []

    @precondition(lambda self: self.slow.queue)
    @rule(data=st.data())
    def take(self, data: st.DataObject) -> None:
        n = data.draw(st.integers(1, len(self.slow.queue)))
        taken = [self.pool.take_one()] if n == 1 else self.pool.take(n)
        assert taken == self.slow.take(n)
        self.tables.append(taken)

    @precondition(lambda self: self.tables)
    @rule(data=st.data())
    def give(self, data: st.DataObject) -> None:
        table = self.tables.pop(data.draw(st.integers(0, len(self.tables) - 1)))
        cut = data.draw(st.integers(0, len(table) - 1))
        first, rest = table[:cut], table[cut:]
        if first:
            self.tables.append(first)
        self.slow.give(rest)
        self.pool.give(list(rest))

    @precondition(lambda self: self.tables)
    @rule(data=st.data())
    def fork(self, data: st.DataObject) -> None:
        table = data.draw(st.sampled_from(self.tables))
        self.slow.touch(table)
        self.pool.share(table)
        self.tables.append(list(table))

    @precondition(lambda self: self.tables)
    @rule(data=st.data(), shelf=SHELVES, first=ENTRIES)
    def publish(self, data: st.DataObject, shelf: int, first: int) -> None:
        table = data.draw(st.sampled_from(self.tables))
        bare = [0 if block in self.slow.place_of else block for block in table]
        for entry, block in enumerate(bare, first):
            if block:
                self.slow.publish((shelf, entry), block)
        if len(bare) == 1 and bare[0]:
            self.pool.publish_one(shelf, first, bare[0])
        else:
            self.pool.publish(shelf, first, bare)

    @precondition(lambda self: self.slow.place_of)
    @rule(data=st.data())
    def unpublish(self, data: st.DataObject) -> None:
        held = [block for block in self.slow.place_of if block in self.slow.holders]
        if held:
            block = data.draw(st.sampled_from(held))
            self.slow.lose_place(block)
            self.pool.unpublish(block)

    @rule(shelf=SHELVES, first=ENTRIES, n=st.integers(0, 12), data=st.data())
    def hit(self, shelf: int, first: int, n: int, data: st.DataObject) -> None:
        places = [(shelf, entry) for entry in range(first, first + n)]
        every = [next(iter(self.slow.blocks_of.get(place, {0: None}))) for place in places]
        leading = every[: every.index(0)] if 0 in every else every
        assert self.pool.find(shelf, first, first + n) == every
        assert self.pool.find_leading(shelf, first, first + n) == leading
        found = [block for block in every if block]
        if data.draw(st.booleans()):
            found = data.draw(st.permutations(found))
        assert self.pool.free_among(every) == sum(block in self.slow.queue for block in found)
        if found:
            self.slow.touch(found)
            self.pool.touch(found)
            self.tables.append(found)

    @invariant()
    def agree(self) -> None:
        if not hasattr(self, "pool"):
            return
        pool, slow = self.pool, self.slow
        assert list(pool.free_queue()) == slow.queue
        assert pool.free == len(slow.queue)
        assert pool.evicted == slow.evicted
        assert pool.evictions == len(slow.evicted)
        assert pool.cached_blocks == len(slow.place_of)
        assert pool.cached_keys == len(slow.blocks_of)
        assert all(pool.holds_of(block) == n for block, n in slow.holders.items())
        assert all(pool.place_of(block) == slow.place_of.get(block) for block in range(pool.size))
        assert all(pool.is_found(block) == (block in slow.place_of) for block in range(pool.size))
        pool.check_integrity(slow.holders)


TestPool = PoolMachine.TestCase
TestPool.settings = settings(max_examples=60, stateful_step_count=50, deadline=None)


def test_empty_shelves_do_not_pile_up() -> None:
    pool = BlockPool(8)
    for number in range(1000):
        blocks = pool.take(7)
        pool.publish(number, 0, blocks)
        pool.give(blocks)
    assert len(pool._shelves) < 100
    assert pool.cached_keys == 7


def test_emptied_runs_do_not_pile_up() -> None:
    pool = BlockPool(1000)
    blocks = pool.take(2)
    pool.publish(1, 0, blocks)
    for _ in range(1000):
        pool.give(blocks)
        blocks = pool.find_leading(1, 0, 2)
        pool.touch(blocks)
    assert len(pool._queue) < 50


@pytest.mark.parametrize(
    "damage", ["lost", "doubled", "shared", "miscounted", "misplaced", "evicted"]
)
def test_integrity_check_notices(damage: str) -> None:
    pool = BlockPool(6)
    blocks = pool.take(3)
    pool.publish(3, 1, blocks)
    held = dict.fromkeys(blocks, 1)
    pool.check_integrity(held)
    if damage == "lost":
        del held[blocks[0]]
    elif damage == "doubled":
        pool._queue.append([blocks[0]])
        pool.free += 1
    elif damage == "shared":
        held[blocks[0]] = 2
    elif damage == "miscounted":
        pool.free += 1
    elif damage == "misplaced":
        pool._entry_of[blocks[0]] = 9
    else:
        pool._shelf_of[blocks[0]] = None
    with pytest.raises(IntegrityError):
        pool.check_integrity(held)
