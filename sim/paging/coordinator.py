"""Prefix lookup over all groups of a cache.

vLLM's ``kv_cache_coordinator.py``: a prefix counts only if every group has what it needs of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import lcm

from sim.paging.groups import Blocks, Group
from sim.paging.pool import BlockPool
from sim.paging.spec import GroupSpec
from sim.paging.states import AlignedStateGroup, StateGroup
from sim.paging.windows import ChunkGroup, WindowGroup
from workloads.request import PrefixPath


@dataclass(slots=True)
class Hit:
    """A prefix of ``tokens`` tokens that is in the cache, and its blocks, a table per group.

    free: how many of the blocks are free; None before anybody has counted.
    """

    tokens: int
    tables: list[Blocks]
    free: int | None = None


class Coordinator:
    """The groups of one cache, in order, and the search for a prefix that all of them have."""

    def __init__(self, specs: Sequence[GroupSpec], pool: BlockPool) -> None:
        self.groups = tuple(
            _class_of(spec)(spec, index, len(specs), pool) for index, spec in enumerate(specs)
        )
        self._alignment = lcm(*(spec.block_size for spec in specs))
        self._types = self._group_by_type()
        self.alike = [[self.groups[index] for index in members] for members in self._types]
        """The groups of equal type. What a sequence's tables in them do follows from its length."""
        self.rows = self._neighbours()
        """The groups in order, those of equal type that follow one another taken together."""
        self.needs_keys = any(spec.kind != "chunked" for spec in specs)
        """Whether nothing can be found of a sequence that has no key in the cache."""

    def _group_by_type(self) -> list[list[int]]:
        """Indices of the groups of equal type; full attention first, then by first appearance."""
        types: dict[GroupSpec, list[int]] = {}
        for index, group in enumerate(self.groups):
            types.setdefault(group.spec.type, []).append(index)
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

        Each type in turn shortens the candidate, until a round changes nothing. What full
        attention has of a shorter prefix is known after its first scan. One full type and one
        other are done after a single round, as the other cannot lengthen what is left.
        """
        if len(self.groups) == 1:
            group = self.groups[0]
            tables = group.find(self.groups, path, longest, group.size)
            return Hit(len(tables[0]) * group.size, tables)
        tables = [[] for _ in self.groups]
        full = self.groups[self._types[0][0]].spec.kind == "full"
        one_round = full and len(self._types) == 2
        hit, scanned = longest, False
        while True:
            length = hit
            for i, members in enumerate(self._types):
                group = self.groups[members[0]]
                if i == 0 and full and scanned:
                    length -= length % group.size
                    continue
                peers = [self.groups[m] for m in members]
                for m, table in zip(
                    members, group.find(peers, path, length, self._alignment), strict=True
                ):
                    tables[m] = table
                length = len(tables[members[0]]) * group.size
            scanned = True
            if length >= hit:
                break
            hit = length
            if one_round:
                break
        if full:
            for m in self._types[0]:
                del tables[m][hit // self.groups[m].size :]
        return Hit(hit, tables)


def _class_of(spec: GroupSpec) -> type[Group]:
    if spec.kind == "recurrent":
        return AlignedStateGroup if spec.mode == "align" else StateGroup
    return {"full": Group, "swa": WindowGroup, "chunked": ChunkGroup}[spec.kind]
