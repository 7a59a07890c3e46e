"""What a run of decode steps will do to a pool of blocks, in closed form."""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf
from functools import reduce
from typing import NamedTuple

import numpy as np

from sim.model import LayerGroup
from sim.paging.groups import Group
from sim.paging.manager import BlockManager, Holding
from sim.paging.occupancy import Occupancy, final_length
from sim.paging.sums import Ints, entered, floors
from sim.reads import attended_in_run
from sim.sequence import Sequence
from sim.step import Count
from sim.usage import Usage


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
    """Up to ``steps`` decode steps of ``seqs``, who hold all there is; changes nothing.

    steps: how many of them can be taken at once. They surely find room one after the other, fewer
    than ``wanted`` blocks (if given) are free after each, and nothing happens that only single
    steps do: a shared block leaves a window or is written, a chunk ends. Can be 0.
    lengths: tokens of each sequence before the first step. free: blocks after each step.
    """

    def __init__(
        self,
        manager: BlockManager,
        seqs: SequenceOf[Sequence],
        steps: int,
        wanted: int | None = None,
    ) -> None:
        self._manager = manager
        self._seqs = seqs
        self._holdings = [manager.holdings[seq.id] for seq in seqs]
        self.lengths: Ints = np.array([seq.computed for seq in seqs], dtype=np.int64)
        self.steps = self._plain_steps(steps)
        if self.steps:
            self._kinds = [
                _Kind(
                    groups[0],
                    len(groups),
                    floors(self.lengths + groups[0].size, groups[0].size, self.steps),
                    self._nulls_of(groups[0]),
                )
                for groups in manager.alike
            ]
            self.free = self._free_blocks(wanted)
            self.steps = len(self.free)

    @property
    def _groups(self) -> tuple[Group, ...]:
        return self._manager.groups

    # How far it reaches.

    def _plain_steps(self, steps: int) -> int:
        manager = self._manager
        if len(self._holdings) != len(manager.holdings) or not manager.foreseeable:
            return 0
        if manager.open_tails:
            return 0
        lengths, sharers = self.lengths.tolist(), manager.pool.sharers
        for groups in manager.alike:
            first = groups[0]
            if first.spec.kind == "chunked":
                steps = min(steps, int((first.window - self.lengths % first.window).min()))
            if not first.frees:
                continue
            for length, holding in zip(lengths, self._holdings, strict=True):
                if holding.tables[first.index].live > first.skipped(length) // first.size:
                    return 0  # it has more null entries than usual
            for length, holding in zip(lengths, self._holdings, strict=True) if sharers else ():
                stop = first.skipped(length + steps - 1) // first.size
                if holding.tables[first.index].live < stop:
                    for group in groups:
                        steps = self._steps_unshared(group, length, holding, steps)
        return steps

    def _steps_unshared(self, group: Group, length: int, holding: Holding, steps: int) -> int:
        """Steps before a table loses a shared block."""
        table, sharers = holding.tables[group.index], self._manager.pool.sharers
        stop = group.skipped(length + steps - 1) // group.size
        if sharers.keys().isdisjoint(table.blocks[table.live : stop]):
            return steps
        entry = next(j for j in range(table.live, stop) if table.blocks[j] in sharers)
        if group.spec.kind == "chunked":
            return 0
        return max(0, (entry + 1) * group.size + group.window - 1 - length)

    def _nulls_of(self, group: Group) -> Ints:
        """Null entries of all tables of a group, during every step."""
        if not group.frees:
            return np.zeros(self.steps, dtype=np.int64)
        if group.spec.kind == "chunked":
            skipped = self.lengths // group.window * group.window // group.size
            return np.full(self.steps, skipped.sum())
        return floors(self.lengths - group.window + 1, group.size, self.steps)

    def _free_blocks(self, wanted: int | None) -> Ints:
        """Free blocks after every step that surely finds room and leaves fewer than wanted."""
        pool = self._manager.pool
        taken, dropped = np.zeros((2, self.steps), dtype=np.int64)
        for kind in self._kinds:
            tables = [holding.tables[kind.group.index] for holding in self._holdings]
            taken += kind.groups * (kind.entries - sum([len(table.blocks) for table in tables]))
            dropped += kind.groups * (kind.nulls - sum([table.live for table in tables]))
        free: Ints = pool.free - taken + dropped
        # Within a step somebody may take before somebody else drops.
        before = np.append(0, dropped[:-1])
        bad = pool.free - taken + before < 0
        if wanted is not None:
            bad |= free >= wanted
        return free[: int(bad.argmax())] if bad.any() else free

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
