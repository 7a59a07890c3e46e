"""What a run of decode steps will do to a pool of blocks, in closed form."""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf
from functools import cached_property, reduce
from typing import NamedTuple

import numpy as np

from sim.model import LayerGroup
from sim.paging.groups import Group
from sim.paging.manager import BlockManager
from sim.paging.occupancy import Occupancy, final_length
from sim.paging.sums import Ints, entered, floors
from sim.reads import attended_in_run
from sim.sequence import Sequence
from sim.step import Count
from sim.usage import Usage
from sim.work import lengths_of


class _Kind(NamedTuple):
    """Groups that take and drop the same.

    group, groups: one of them, and how many they are. entries, nulls: of all tables of one group,
    during every step.
    """

    group: Group
    groups: int
    entries: Ints
    nulls: Ints


class Forecast:
    """``steps`` decode steps of ``seqs``, who hold all there is; changes nothing.

    They find room, and nothing happens that only single steps do: a shared block leaves a window
    or is written, a chunk ends. lengths: tokens of each sequence before the first step. free:
    blocks after each step.
    """

    def __init__(self, manager: BlockManager, seqs: SequenceOf[Sequence], steps: int) -> None:
        self._manager = manager
        self._seqs = seqs
        self._holdings = [manager.holdings[seq.id] for seq in seqs]
        self.lengths = lengths_of(seqs)
        self.steps = steps

    @cached_property
    def _kinds(self) -> list[_Kind]:
        return [
            _Kind(
                groups[0],
                len(groups),
                floors(self.lengths + groups[0].size, groups[0].size, self.steps),
                self._nulls_of(groups[0]),
            )
            for groups in self._manager.alike
        ]

    def _nulls_of(self, group: Group) -> Ints:
        """Null entries of all tables of a group, during every step."""
        if not group.frees:
            return np.zeros(self.steps, dtype=np.int64)
        if group.spec.kind == "chunked":
            skipped = self.lengths // group.window * group.window // group.size
            return np.full(self.steps, skipped.sum())
        return floors(self.lengths - group.window + 1, group.size, self.steps)

    @cached_property
    def free(self) -> Ints:
        """Free blocks after every step."""
        free = np.full(self.steps, self._manager.pool.free)
        for kind in self._kinds:
            tables = [holding.tables[kind.group.index] for holding in self._holdings]
            free -= kind.groups * (kind.entries - sum([len(table.blocks) for table in tables]))
            free += kind.groups * (kind.nulls - sum([table.live for table in tables]))
        return free

    # How the cells are used.

    def usage(self, occupancy: Occupancy) -> Usage:
        """As `Occupancy.count` would answer during each of the steps."""
        cells, steps, pool = occupancy.block_cells, self.steps, self._manager.pool
        ends = int(self.lengths.sum()) + len(self.lengths) * np.arange(1, steps + 1)
        live, reserved = np.zeros((2, steps), dtype=np.int64)
        for group, groups, entries, nulls in self._kinds:
            if group.spec.kind == "recurrent":
                live += groups * (entries - nulls)[:steps] * cells
                continue
            layers = LayerGroup(group.spec.kind, (), group.window)
            attended = attended_in_run(layers, self.lengths, steps)
            live += groups * (attended * cells // group.size)
            promised = entries[:steps] * group.size - self._never_used(group)
            reserved += groups * ((promised - ends) * cells // group.size)
        live -= pool.extra_holds * cells
        shared: Count = len(pool.sharers) * cells
        for block, group, dead in self._shared_firsts():
            common = reduce(np.minimum, dead) if len(dead) > pool.sharers[block] else 0
            live += (sum(dead) - common) * cells // group.size
            shared = shared - common * cells // group.size
        free = self.free * cells
        return Usage(
            occupancy.capacity,
            live,
            reserved,
            occupancy.capacity - free - live - reserved,
            free,
            0,
            shared,
            occupancy.cell_bytes,
        )

    def _never_used(self, group: Group) -> Ints:
        """Tokens' room in last blocks that the sequences will not fill, during every step."""
        finals = np.array([final_length(seq) for seq in self._seqs], dtype=np.int64)
        last = (finals - 1) // group.size
        return entered(
            last * group.size - self.lengths, (last + 1) * group.size - finals, self.steps
        )

    @property
    def shares_first_blocks(self) -> bool:
        """Whether shared blocks come to be the first of tables, and not all of them needed."""
        return bool(self._shared_firsts())

    def _shared_firsts(self) -> list[tuple[int, Group, list[Ints]]]:
        """Shared blocks that come to be the first of tables, and the dead tokens that those see."""
        sharers = self._manager.pool.sharers
        firsts: dict[int, tuple[Group, list[Ints]]] = {}
        if not sharers:
            return []
        for groups in self._manager.alike:
            group = groups[0]
            if not group.frees or group.spec.kind == "recurrent":
                continue
            for length, holding in zip(self.lengths.tolist(), self._holdings, strict=True):
                last = group.skipped(length + self.steps - 1)
                if not last:
                    continue  # no window has moved: nothing in its first block is dead
                first = group.skipped(length) // group.size
                for entry in range(first, last // group.size + 1):
                    dead: Ints | None = None
                    for each in groups:
                        blocks = holding.tables[each.index].blocks
                        if entry < len(blocks) and blocks[entry] in sharers:
                            dead = self._dead_in(group, length, entry) if dead is None else dead
                            firsts.setdefault(blocks[entry], (each, []))[1].append(dead)
        return [(block, group, dead) for block, (group, dead) in firsts.items()]

    def _dead_in(self, group: Group, length: int, entry: int) -> Ints:
        """Tokens of a table's entry that are before the window, during every step."""
        step = np.arange(self.steps, dtype=np.int64)
        if group.spec.kind == "chunked":
            skipped = np.full(self.steps, group.skipped(length))
        else:
            skipped = length + step - group.window + 1
        return np.maximum(skipped - entry * group.size, 0)
