"""How the cells of a paged cache are used.

A block has as many cells as the finest group has tokens in a block. Cells of an attention group
are live from the first token that the running step attends to up to the last that it computes;
behind that they are reserved as far as the sequence will still grow. A held state is a live block.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from operator import add

from sim.paging.groups import Group, Table
from sim.paging.holding import Holding
from sim.paging.manager import BlockManager
from sim.sequence import Sequence
from sim.step import Count
from sim.usage import Usage


def final_length(seq: Sequence) -> int:
    """Tokens that will have been computed in the end: the last one sampled never is."""
    return max(seq.limit, seq.prompt + seq.min_tokens) - 1


@dataclass(slots=True)
class _Partly:
    """A shared block of ``size`` tokens, of which holders leave some out.

    dead: tokens of each holder of which it is the first block. held, reserved: of each of which it
    is the last one. They differ where a tail was removed.
    """

    size: int
    dead: list[int] = field(default_factory=list)
    held: list[int] = field(default_factory=list)
    reserved: list[int] = field(default_factory=list)


class Occupancy:
    """Counts the cells of ``manager``'s blocks by use.

    block_cells: cells of a block. capacity: of all blocks but the null block. cell_bytes: of one.
    """

    def __init__(self, manager: BlockManager, block_bytes: int) -> None:
        self._manager = manager
        sizes = [g.size for g in manager.groups if g.spec.kind != "recurrent"]
        self.block_cells = min(sizes, default=1)
        self.cell_bytes = block_bytes // self.block_cells
        self.capacity = (manager.pool.size - 1) * self.block_cells

    def split(self, live: int, reserved: int, shared: int) -> Usage:
        """A usage with these counts; what is held beyond them is internal."""
        free = self._manager.pool.free * self.block_cells
        internal = self.capacity - free - live - reserved
        return Usage(self.capacity, live, reserved, internal, free, 0, shared, self.cell_bytes)

    def count(self, seqs: Iterable[Sequence]) -> Usage:
        """The usage at this moment; ``seqs``: all that hold anything.

        The cost grows with the sequences and their groups, not with their cells.
        """
        pool, live, reserved = self._manager.pool, 0, 0
        holdings = self._manager.holdings
        spans = [(holdings[seq.id], final_length(seq), *self.span_of(seq)) for seq in seqs]
        partly: dict[int, _Partly] = {}
        for groups in self._manager.alike:
            group = groups[0]
            index, size = group.index, group.size
            used = promised = 0
            for holding, final, start, end in spans:
                table = holding.tables[index]
                if group.spec.kind == "recurrent":
                    used += size * len(group.held(table))
                    continue
                first = table.live * size
                dead = max(min(group.skipped(start), end) - first, 0)
                to_come = min(len(table.blocks) * size, max(final, end)) - end
                used += end - first - dead
                promised += to_come
                if pool.sharers and (dead or holding.open_tail):
                    for each in groups:
                        own = holding.tables[each.index]
                        self._note_first(partly, each, own, dead)
                        if holding.open_tail:
                            self._note_last(partly, each, own, end, to_come)
            live += len(groups) * (used * self.block_cells // size)
            reserved += len(groups) * (promised * self.block_cells // size)
        live -= pool.extra_holds * self.block_cells
        shared = len(pool.sharers) * self.block_cells
        for block, part in partly.items():
            size, sharers = part.size, pool.sharers[block]
            whole = sharers + 1 - len(part.held)
            most, second, *_ = sorted([*part.held, *[size] * min(whole, 2)], reverse=True)
            common = min(part.dead) if len(part.dead) > sharers else 0
            counted = sum(part.held) + whole * size - sum(part.dead) - sharers * size
            live += (most - common - counted) * self.block_cells // size
            shared -= (size - second + common) * self.block_cells // size
            ends = map(add, part.held, part.reserved)
            to_come = max(max(ends, default=0) - most, 0)
            reserved -= (sum(part.reserved) - to_come) * self.block_cells // size
        return self.split(live, reserved, shared)

    def span_of(self, seq: Sequence) -> tuple[int, int]:
        """The tokens that the running (or last) step computed: from, and up to."""
        holding = self._manager.holdings[seq.id]
        if seq.computed > holding.end:
            return seq.computed - 1, seq.computed
        return holding.start, holding.end

    def _note_first(
        self, partly: dict[int, _Partly], group: Group, table: Table, dead: int
    ) -> None:
        if dead:
            block = table.blocks[table.live]
            if block in self._manager.pool.sharers:
                part = partly.setdefault(block, _Partly(group.size))
                part.dead.append(dead)

    def _note_last(
        self, partly: dict[int, _Partly], group: Group, table: Table, end: int, to_come: int
    ) -> None:
        entry, held = divmod(end, group.size)
        if held:
            block = table.blocks[entry]
            if block in self._manager.pool.sharers:
                part = partly.setdefault(block, _Partly(group.size))
                part.held.append(held)
                part.reserved.append(to_come)


class Totals:
    """Tokens of all sequences, and room that they will never use, kept up to date.

    That is all one needs with one group, of full attention, and no open tails: then what the
    prefix cache lets sequences share are whole blocks, and every table entry is a hold of one.
    """

    def __init__(self, manager: BlockManager) -> None:
        self._manager = manager
        groups = manager.groups
        self._enough = len(groups) == 1 and groups[0].spec.kind == "full"
        self._size = groups[0].size
        self._visits = 0
        self.tokens = 0
        self.surplus = 0

    @property
    def enough(self) -> bool:
        """Whether the totals tell everything now."""
        return self._enough and not self._manager.open_tails

    def stop(self) -> None:
        """Tell nothing from now on, as where room is used that sequences will not need."""
        self._enough = False

    @property
    def entries(self) -> int:
        """Table entries of all sequences together."""
        pool = self._manager.pool
        return pool.size - 1 - pool.free + pool.extra_holds

    def usage(self, occupancy: Occupancy) -> Usage:
        """The usage at this moment, if the totals are enough."""
        capacity, size = occupancy.capacity, occupancy.cell_bytes
        live, reserved, internal, free, external, shared = self.integrals(
            occupancy, self.tokens, self.entries * self._size, self.surplus, 1
        )
        return Usage(capacity, live, reserved, internal, free, external, shared, size)

    def split(self, occupancy: Occupancy, tokens: Count, cells: Count, surplus: Count) -> Usage:
        """The usage with so many tokens, in tables of so many cells, and room never used."""
        pool, capacity = self._manager.pool, occupancy.capacity
        twice, shared = pool.extra_holds * self._size, len(pool.sharers) * self._size
        live, reserved = tokens - twice, cells - surplus - tokens
        free = capacity - (cells - twice)
        internal = cells - twice - live - reserved
        return Usage(capacity, live, reserved, internal, free, 0, shared, occupancy.cell_bytes)

    def integrals(
        self, occupancy: Occupancy, tokens: int, cells: int, surplus: int, time: int
    ) -> tuple[int, ...]:
        """The counts of `split` in the order of `PARTS`, all integrated over a ``time``."""
        pool, size = self._manager.pool, self._size
        twice = pool.extra_holds * size * time
        live, reserved = tokens - twice, cells - surplus - tokens
        free = occupancy.capacity * time - (cells - twice)
        internal = cells - twice - live - reserved
        return live, reserved, internal, free, 0, len(pool.sharers) * size * time

    def live(self, tokens: int) -> int:
        """Cells that hold so many tokens of all sequences."""
        return tokens - self._manager.pool.extra_holds * self._size

    def came(self, seq: Sequence, holding: Holding) -> None:
        """``seq`` holds something that it did not hold before."""
        holding.final = final_length(seq)
        self.tokens += holding.end
        self.grew(holding)

    def visited(self, holding: Holding, n: int) -> None:
        """A sequence was given room for ``n`` more tokens in this step."""
        self._visits += 1
        self.tokens += n
        self.grew(holding)

    def grew(self, holding: Holding) -> None:
        """The table may have grown."""
        surplus = len(holding.tables[0].blocks) * self._size - holding.final
        if surplus > holding.surplus:
            self.surplus += surplus - holding.surplus
            holding.surplus = surplus

    def left(self, seq: Sequence, holding: Holding) -> None:
        """``seq`` no longer holds anything."""
        self._visits -= holding.end > seq.computed
        self.tokens -= max(holding.end, seq.computed)
        self.surplus -= holding.surplus

    def stepped(self, runs: int) -> None:
        """A step of ``runs`` runs was scheduled: those not visited have got one token more."""
        self.tokens += runs - self._visits
        self._visits = 0
