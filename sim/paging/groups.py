"""What full attention does with block tables; the base of the other kinds of layers.

vLLM's ``single_type_kv_cache_manager.py``: which tokens need no K/V any more, how a prefix is
looked up, how many blocks a sequence needs, and how its table grows.
"""

from __future__ import annotations

from typing import Final

from sim.paging.keys import Part, parts_of
from sim.paging.pool import BlockPool
from sim.paging.spec import GroupSpec
from workloads.request import PrefixPath

NEVER: Final = 1 << 62

Blocks = list[int]
Range = tuple[int, int]
"""Entries of a table: from, and up to."""


class Table:
    """The block table of one sequence in one group.

    blocks: block of every ``size`` tokens, or the null block; entries are appended and made null,
    and where anything else happens to them, it is another list. live: a number of leading entries
    that are null. cached: leading entries that the prefix cache was offered. state: index of the
    entry that holds the state before the last one (aligned recurrent groups).
    """

    __slots__ = ("blocks", "cached", "live", "size", "state")

    def __init__(self, blocks: Blocks, size: int, live: int = 0) -> None:
        self.blocks = blocks
        self.size = size
        self.cached = len(blocks)
        self.live = live
        while self.live < self.cached and not blocks[self.live]:
            self.live += 1
        self.state: int | None = None


class Group:
    """Full attention: every token is needed to the end.

    frees: whether tables lose blocks while their sequence runs.
    """

    frees = False

    def __init__(self, spec: GroupSpec, index: int, pool: BlockPool) -> None:
        """``index``: its place among all groups."""
        self.spec = spec
        self.index = index
        self.size = spec.block_size
        self.window = spec.window
        self.pool = pool
        self._types = self._type = 0
        self.peers: list[Group] = [self]
        """All groups of its type, whose blocks stand on the same shelves, entry by entry."""

    def join(self, peers: list[Group], number: int, types: int) -> None:
        """Be one of ``peers``, the groups of type ``number`` of so many ``types``."""
        self.peers = peers
        self._type, self._types = number, types

    def shelf(self, branch: int) -> int:
        """The number of the pool's shelf for blocks of this type on a branch."""
        return branch * self._types + self._type

    def skipped(self, computed: int) -> int:
        """Leading tokens that nobody needs once ``computed`` tokens are there."""
        del computed
        return 0

    # Looking a prefix up.

    def find(self, path: PrefixPath, longest: int, alignment: int) -> list[Blocks]:
        """Tables, one for each of the peers, of the longest cached prefix up to ``longest`` tokens.

        All of them must have the prefix. Its length is a multiple of ``alignment`` tokens.
        """
        found = self._leading(path, 0, longest // self.size)
        entries = len(found) // len(self.peers)
        return self._columns(found, entries - entries % (alignment // self.size))

    def _leading(self, path: PrefixPath, first: int, stop: int) -> Blocks:
        """All peers' blocks from entry ``first`` on, up to one that is not cached."""
        n = len(self.peers)
        found: Blocks = []
        for branch, start, until in parts_of(path, self.size, first, stop):
            found += self.pool.find_leading(self.shelf(branch), start * n, until * n)
            if len(found) < (until - first) * n:
                break
        return found

    def _columns(self, found: Blocks, entries: int) -> list[Blocks]:
        """Of so many entries of all peers, those of each."""
        n = len(self.peers)
        if n == 1:
            return [found[:entries]]
        return [found[i : entries * n : n] for i in range(n)]

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
        table = Table([0] * skipped + kept, self.size, skipped)
        if kept:
            gaps = self.spec.kind != "full" and 0 in kept
            self.pool.touch([block for block in kept if block] if gaps else kept)
        return table

    def grow(self, table: Table, tokens: int, blocks: Blocks) -> None:
        """Append ``blocks``, as many as `further_need` asked for, to have room for ``tokens``."""
        del tokens
        table.blocks += blocks

    def drops(self, table: Table, computed: int) -> list[Range]:
        """Entries, with blocks, that nobody needs once ``computed`` tokens are there."""
        del table, computed
        return []

    def take_out(self, table: Table, first: int, stop: int) -> Blocks:
        """Make entries null; what they were."""
        blocks = table.blocks
        gone = blocks[first:stop]
        for entry in range(first, stop):
            blocks[entry] = 0
        return gone

    def next_drop(self, table: Table) -> int:
        """Tokens that have to be computed before `drops` may name anything more."""
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

    def publish(self, parts: list[Part], blocks: Blocks) -> None:
        """Let ``blocks``, the peers' of all entries of ``parts``, be found, but for null ones."""
        n, before = len(self.peers), parts[0][1]
        for branch, first, stop in parts:
            own = blocks[(first - before) * n : (stop - before) * n]
            self.pool.publish(self.shelf(branch), first * n, own)

    def publish_one(self, branch: int, entry: int, block: int) -> None:
        """Let a block be found that a group without peers has."""
        self.pool.publish_one(self.shelf(branch), entry, block)

    def step_ends(self) -> None:
        """Forget what held for one step only."""
