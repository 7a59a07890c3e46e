"""Groups of recurrent layers: a block holds the state after its last token, not tokens.

vLLM's ``MambaManager``. With mode ``none`` there is one block a sequence (its block size is the
longest sequence), with ``all`` a state is kept at every block boundary while it is computed, with
``align`` only at the boundaries where the scheduler makes a prefill chunk end.
"""

from __future__ import annotations

from collections.abc import Sequence

from sim.paging.groups import Blocks, Group, Piece, Table
from sim.paging.keys import KeyMaker
from sim.paging.pool import BlockPool
from sim.paging.spec import GroupSpec
from sim.paging.windows import WindowGroup
from workloads.request import PrefixPath


class StateGroup(WindowGroup):
    """Modes ``none`` and ``all``: what is needed is the block of the last computed token."""

    def __init__(self, spec: GroupSpec, index: int, pool: BlockPool, keys: KeyMaker) -> None:
        super().__init__(spec, index, pool, keys)
        self.window = 2
        self._fresh: set[int] = set()
        """Keys published in this step, whose states are not computed yet."""

    def find(
        self, peers: Sequence[Group], path: PrefixPath, longest: int, alignment: int
    ) -> list[Blocks]:
        """The rightmost cached state; what is before it stays null."""
        stop = longest // self.size
        columns = self._columns(peers, path, 0, stop)
        every = alignment // self.size
        for i in range(stop - 1, -1, -1):
            if (i + 1) % every == 0 and all(column[i] for column in columns):
                return [[0] * i + [column[i]] for column in columns]
        return [[] for _ in peers]

    def first_need(self, hit: Blocks, tokens: int, computed: int) -> int:
        """More than there is if the state that was found is only being computed in this step."""
        if hit and self.pool.key_of(hit[-1]) in self._fresh:
            return self.pool.size + 1
        return super().first_need(hit, tokens, computed)

    def keyed(self, path: PrefixPath, first: int, blocks: Blocks) -> tuple[list[int], Blocks]:
        """Takes note of the keys as well."""
        keys, blocks = super().keyed(path, first, blocks)
        self._fresh.update(keys)
        return keys, blocks

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

    def drop(self, table: Table, computed: int) -> list[Piece]:
        """Blocks of earlier states, once the state after ``computed`` tokens was made from them."""
        blocks, pieces = table.blocks, []
        stop = first = min(self.skipped(computed) // self.size, len(blocks))
        while first and blocks[first - 1]:
            first -= 1
        if first < stop:
            pieces.append((first, blocks[first:stop]))
            blocks[first:stop] = [0] * (stop - first)
        state = table.state
        if state is not None and state < -(-computed // self.size) - 1 and blocks[state]:
            pieces.append((state, [blocks[state]]))
            blocks[state] = 0
        return pieces
