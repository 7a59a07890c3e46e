"""Prefix lookup over all groups of a cache.

vLLM's ``kv_cache_coordinator.py``: a prefix counts only if every group has what it needs of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import lcm

from sim.paging.groups import Blocks, Group
from sim.paging.pool import BlockPool
from sim.paging.spec import GroupSpec
from sim.paging.states import AlignedStateGroup, StateGroup
from sim.paging.windows import ChunkGroup, WindowGroup
from workloads.request import PrefixPath


class Hit:
    """A prefix of ``tokens`` tokens that is in the cache, and its blocks, a table per group.

    free: how many of the blocks are free; negative before anybody has counted.
    """

    __slots__ = ("free", "tables", "tokens")

    def __init__(self, tokens: int, tables: list[Blocks]) -> None:
        self.tokens = tokens
        self.tables = tables
        self.free = -1 if tables else 0


class Coordinator:
    """The groups of one cache, in order, and the search for a prefix that all of them have."""

    def __init__(self, specs: Sequence[GroupSpec], pool: BlockPool) -> None:
        self.groups = tuple(_class_of(spec)(spec, index, pool) for index, spec in enumerate(specs))
        self._alignment = lcm(*(spec.block_size for spec in specs))
        self._pool = pool
        self._asked: tuple[PrefixPath, int] = ((), 0)
        self._found = Hit(0, [])
        self._at = 0
        """What was asked for last, what was found, and when by the pool's clock."""
        self.alike = self._by_type()
        """The groups of equal type. What a sequence's tables in them do follows from its length."""
        for number, peers in enumerate(self.alike):
            for group in peers:
                group.join(peers, number, len(self.alike))
        self.rows = self._neighbours()
        """The groups in order, those of equal type that follow one another taken together."""
        self._has_full = self.alike[0][0].spec.kind == "full"
        self.needs_keys = any(spec.kind != "chunked" for spec in specs)
        """Whether nothing can be found of a sequence that has no key in the cache."""

    def _by_type(self) -> list[list[Group]]:
        """The groups of equal type; full attention first, then by first appearance."""
        types: dict[GroupSpec, list[Group]] = {}
        for group in self.groups:
            types.setdefault(group.spec.type, []).append(group)
        ordered = sorted(types.items(), key=lambda item: item[0].kind != "full")
        return [members for _, members in ordered]

    def _neighbours(self) -> list[list[Group]]:
        rows: list[list[Group]] = []
        for group in self.groups:
            if rows and rows[-1][0].spec.type == group.spec.type:
                rows[-1].append(group)
            else:
                rows.append([group])
        return rows

    def find(self, path: PrefixPath, longest: int) -> Hit:
        """The longest prefix of at most ``longest`` tokens that every group has.

        Who is refused asks again and again. Little of what he asks for changes meanwhile.
        """
        asked, pool = self._asked, self._pool
        if asked[0] is path and asked[1] == longest:
            shelves = [peers[0].shelf(branch) for branch, _ in path for peers in self.alike]
            if not pool.has_changed(shelves, self._at):
                self._found.free = -1
                return self._found
        self._asked, self._at = (path, longest), pool.clock
        self._found = self._find(path, longest)
        return self._found

    def _find(self, path: PrefixPath, longest: int) -> Hit:
        """`find`, looked up.

        Each type in turn shortens the candidate, until a round changes nothing. What full
        attention has of a shorter prefix is known after its first scan. One full type and one
        other are done after a single round, as the other cannot lengthen what is left.
        """
        if len(self.groups) == 1:
            group = self.groups[0]
            tables = group.find(path, longest, group.size)
            return Hit(len(tables[0]) * group.size, tables)
        tables = [[] for _ in self.groups]
        full = self._has_full
        hit, scanned = longest, False
        while True:
            length = hit
            for i, peers in enumerate(self.alike):
                group = peers[0]
                if i == 0 and full and scanned:
                    length -= length % group.size
                    continue
                found = group.find(path, length, self._alignment)
                for j, peer in enumerate(peers):
                    tables[peer.index] = found[j]
                length = len(found[0]) * group.size
            scanned = True
            if length >= hit:
                break
            hit = length
            if full and len(self.alike) == 2:
                break
        if full:
            for group in self.alike[0]:
                del tables[group.index][hit // group.size :]
        return Hit(hit, tables)


def _class_of(spec: GroupSpec) -> type[Group]:
    if spec.kind == "recurrent":
        return AlignedStateGroup if spec.mode == "align" else StateGroup
    return {"full": Group, "swa": WindowGroup, "chunked": ChunkGroup}[spec.kind]
