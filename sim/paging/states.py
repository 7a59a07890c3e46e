"""Groups of recurrent layers: a block holds the state after its last token, not tokens.

vLLM's ``MambaManager``. With mode ``none`` there is one block a sequence (its block size is the
longest sequence), with ``all`` a state is kept at every block boundary while it is computed, with
``align`` only at the boundaries where the scheduler makes a prefill chunk end.
"""

from __future__ import annotations

from sim.paging.groups import Blocks, Group, Range, Table
from sim.paging.keys import Part
from sim.paging.pool import BlockPool
from sim.paging.spec import GroupSpec
from sim.paging.windows import WindowGroup


class StateGroup(WindowGroup):
    """Modes ``none`` and ``all``: what is needed is the block of the last computed token.

    That is a window of two tokens: the next one, and the last whose state it is made from.
    """

    def __init__(self, spec: GroupSpec, index: int, pool: BlockPool) -> None:
        super().__init__(spec, index, pool)
        self.window = 2
        self._fresh: set[tuple[int, int] | None] = set()
        """Places published in this step, whose states are not computed yet."""

    def join(self, peers: list[Group], number: int, types: int) -> None:
        """The first of them takes note for all."""
        super().join(peers, number, types)
        first = peers[0]
        assert isinstance(first, StateGroup)
        self._fresh = first._fresh

    def first_need(self, hit: Blocks, tokens: int, computed: int) -> int:
        """More than there is if the state that was found is only being computed in this step."""
        if hit and self.pool.place_of(hit[-1]) in self._fresh:
            return self.pool.size + 1
        return super().first_need(hit, tokens, computed)

    def publish(self, parts: list[Part], blocks: Blocks) -> None:
        """Takes note of the places as well."""
        super().publish(parts, blocks)
        self._fresh.update([self.pool.place_of(block) for block in blocks if block])

    def publish_one(self, branch: int, entry: int, block: int) -> None:
        """Takes note of the place as well."""
        super().publish_one(branch, entry, block)
        self._fresh.add(self.pool.place_of(block))

    def step_ends(self) -> None:
        """The states of this step are computed."""
        self._fresh.clear()


class AlignedStateGroup(StateGroup):
    """Mode ``align``: a table is null but for its last block, and the one before it for a step."""

    def first_need(self, hit: Blocks, tokens: int, computed: int) -> int:
        """One block for the latest state."""
        need = super().first_need(hit, tokens, computed)
        return need if need > self.pool.size else min(need, 1)

    def further_need(self, table: Table, tokens: int) -> int:
        """One real block whenever the table grows."""
        return int(-(-tokens // self.size) > len(table.blocks))

    def grow(self, table: Table, tokens: int, blocks: Blocks) -> None:
        """Null entries, and one block for the state after the last token."""
        if blocks:
            if table.blocks:
                table.state = len(table.blocks) - 1
            table.blocks += [0] * (-(-tokens // self.size) - len(table.blocks) - 1)
            table.blocks += blocks

    def next_drop(self, table: Table) -> int:
        """Nobody knows: what is dropped does not follow from lengths alone."""
        return 0

    def most_blocks(self, tokens: int, chunk: int) -> int:
        """The latest state, and the one that it is made from."""
        return min(Group.most_blocks(self, tokens, chunk), 2)

    def held(self, table: Table) -> Blocks:
        """The entries that are not null, wherever they are."""
        return [block for block in table.blocks if block]

    def drops(self, table: Table, computed: int) -> list[Range]:
        """Earlier states, once the state after ``computed`` tokens was made from them."""
        blocks, state, found = table.blocks, table.state, []
        stop = first = min(self.skipped(computed) // self.size, len(blocks))
        while first and blocks[first - 1]:
            first -= 1
        if first < stop:
            found.append((first, stop))
        if state is None or state >= -(-computed // self.size) - 1 or first <= state < stop:
            return found
        if blocks[state]:
            found.append((state, state + 1))
        return found

    def take_out(self, table: Table, first: int, stop: int) -> Blocks:
        """These are any entries."""
        return Group.take_out(self, table, first, stop)
