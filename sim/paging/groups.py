"""What full attention does with block tables; the base of the other kinds of layers.

vLLM's ``single_type_kv_cache_manager.py``: which tokens need no K/V any more, how a prefix is
looked up, how many blocks a sequence needs, and how its table grows.
"""

from __future__ import annotations

from collections.abc import Sequence

from sim.paging.keys import KeyMaker
from sim.paging.pool import BlockPool
from sim.paging.spec import GroupSpec
from workloads.request import PrefixPath

NEVER = 1 << 62

Blocks = list[int]
Piece = tuple[int, Blocks]
"""Entries taken out of a table: the index of the first, and their blocks."""


class Table:
    """The block table of one sequence in one group.

    blocks: block of every ``size`` tokens, or the null block. live: a number of leading entries
    that are null. cached: leading entries that the prefix cache was offered. state: index of the
    entry that holds the state before the last one (aligned recurrent groups).
    """

    __slots__ = ("blocks", "cached", "live", "size", "state")

    def __init__(self, blocks: Blocks, size: int) -> None:
        self.blocks = blocks
        self.size = size
        self.cached = len(blocks)
        self.live = 0
        while self.live < self.cached and not blocks[self.live]:
            self.live += 1
        self.state: int | None = None


class Group:
    """Full attention: every token is needed to the end.

    frees: whether tables lose blocks while their sequence runs.
    """

    frees = False

    def __init__(self, spec: GroupSpec, index: int, pool: BlockPool, keys: KeyMaker) -> None:
        self.spec = spec
        self.index = index
        self.size = spec.block_size
        self.window = spec.window
        self.pool = pool
        self._keys = keys

    def keys(self, path: PrefixPath, first: int, stop: int) -> list[int]:
        """Keys of the blocks ``first .. stop - 1`` of a sequence."""
        index = self.index
        if first + 1 == stop:
            return [self._keys.key(path, self.size, first) + index]
        keys = self._keys.keys(path, self.size, first, stop)
        return [key + index for key in keys] if index else keys

    def skipped(self, computed: int) -> int:
        """Leading tokens that nobody needs once ``computed`` tokens are there."""
        del computed
        return 0

    # Looking a prefix up.

    def find(
        self, peers: Sequence[Group], path: PrefixPath, longest: int, alignment: int
    ) -> list[Blocks]:
        """Tables, one for each of ``peers``, of the longest cached prefix up to ``longest`` tokens.

        ``peers`` are all groups of this type, and all of them must have the prefix. Its length is
        a multiple of ``alignment`` tokens.
        """
        stop = longest // self.size
        tables = []
        for peer in peers:
            tables.append(peer._leading(path, 0, stop))
            stop = len(tables[-1])
        stop -= stop % (alignment // self.size)
        return [table[:stop] for table in tables]

    def _leading(self, path: PrefixPath, first: int, stop: int) -> Blocks:
        """Blocks from entry ``first`` on, up to the first that is not cached."""
        return self.pool.find_leading(self.keys(path, first, stop))

    # Needing and taking blocks.

    def first_need(self, hit: Blocks, tokens: int, computed: int) -> int:
        """Blocks that a waiting sequence takes to have room for ``tokens``.

        ``computed`` tokens of it are in the cache, in the table ``hit``, whose own are not counted.
        """
        skipped = self.skipped(computed) // self.size
        return max(-(-tokens // self.size) - max(skipped, len(hit)), 0)

    def free_in(self, hit: Blocks, computed: int) -> int:
        """Blocks of ``hit`` that leave the free queue when a sequence takes it over."""
        return self.pool.free_among(hit[self.skipped(computed) // self.size :])

    def further_need(self, table: Table, tokens: int) -> int:
        """Blocks that a running sequence needs to have room for ``tokens``."""
        return max(-(-tokens // self.size) - len(table.blocks), 0)

    def adopt(self, hit: Blocks, computed: int) -> Table:
        """A table that starts with what is still needed of a prefix found in the cache."""
        skipped = self.skipped(computed) // self.size
        kept = hit[skipped:]
        if kept:
            self.pool.touch([block for block in kept if block])
        return Table([0] * skipped + kept, self.size)

    def grow(self, table: Table, tokens: int, blocks: Blocks) -> None:
        """Append ``blocks``, as many as `further_need` asked for, to have room for ``tokens``."""
        del tokens
        table.blocks += blocks

    def drop(self, table: Table, computed: int) -> list[Piece]:
        """Take out of the table what nobody needs once ``computed`` tokens are there."""
        del table, computed
        return []

    def next_drop(self, table: Table) -> int:
        """Tokens that have to be computed before `drop` may take anything more out."""
        del table
        return NEVER

    def most_blocks(self, tokens: int, chunk: int) -> int:
        """Blocks that a sequence of ``tokens`` tokens holds at the most, ``chunk`` a step."""
        del chunk
        return -(-tokens // self.size)

    def held(self, table: Table) -> Blocks:
        """The entries that are not null, in order."""
        return table.blocks

    # Filling the prefix cache.

    def keyed(self, path: PrefixPath, first: int, blocks: Blocks) -> tuple[list[int], Blocks]:
        """Keys for the entries of a table from index ``first`` on, null ones left out."""
        keys = self.keys(path, first, first + len(blocks))
        if 0 in blocks:
            keys = [key for key, block in zip(keys, blocks, strict=True) if block]
            blocks = [block for block in blocks if block]
        return keys, blocks

    def step_ends(self) -> None:
        """Forget what held for one step only."""
