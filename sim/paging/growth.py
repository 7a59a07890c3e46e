"""Decode runs in which tables of one group of full attention grow, and nothing else happens.

No arrays over steps are made unless somebody asks: between two steps in which any table takes a
block, attention loads the same blocks, and the counts of cells move by one token a sequence.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as SequenceOf
from typing import Any

import numpy as np

from sim.decode_run import DecodeRun, Stretch
from sim.paging.manager import BlockManager
from sim.paging.occupancy import Occupancy, Totals
from sim.paging.run import Due
from sim.schedulers.calendar import Ranked
from sim.sequence import Sequence
from sim.step import Reads
from sim.step_log import Spans
from sim.usage import Usage, counts_of


class GrowingRun(DecodeRun):
    """A plan for all holders of ``manager``'s blocks, who decode.

    Changes ``totals`` when it is applied.
    """

    def __init__(
        self,
        manager: BlockManager,
        totals: Totals,
        occupancy: Occupancy,
        seqs: SequenceOf[Sequence],
        due: Due,
        steps: int,
    ) -> None:
        self._manager = manager
        self._totals = totals
        self._occupancy = occupancy
        self._sequences = len(seqs)
        self._due = due
        self._size = manager.groups[0].size
        self._takers = due.agenda(0)
        self._tokens = totals.tokens
        self._free = manager.pool.free
        self._changes: list[tuple[int, int, int]] = []
        """(steps, free blocks, surplus) from change to change, of the steps taken."""
        super().__init__(self._steps_with_room(steps))

    def _steps_with_room(self, steps: int) -> int:
        free = self._free
        if -(-steps // self._size) * self._sequences <= free:
            return steps
        for step, takers in _repeated(self._takers, self._size, steps):
            free -= len(takers)
            if free < 0:
                return step
        return steps

    # What it will be like.

    def stretches(self) -> Iterator[Stretch]:
        """From one step in which a table takes a block to the next."""
        size, n, steps = self._size, self._sequences, self.steps
        entries, tokens, first = self._totals.entries, self._tokens, 0
        for step, takers in _repeated(self._takers, size, steps):
            if step > first:
                yield Stretch(step - first, (Reads(entries * size, tokens + n * step, entries),))
                first = step
            entries += len(takers)
        yield Stretch(steps - first, (Reads(entries * size, tokens + n * steps, entries),))

    def _foreseen_reads(self) -> tuple[Reads, ...]:
        """Whole blocks and live pairs."""
        stretches = list(self.stretches())
        sizes = [stretch.steps for stretch in stretches]
        entries = np.repeat([stretch.reads[0].gathers for stretch in stretches], sizes)
        grown = np.arange(1, self.steps + 1, dtype=np.int64)
        return (Reads(entries * self._size, self._tokens + self._sequences * grown, entries),)

    def _foreseen_usage(self) -> tuple[Usage, ...]:
        """The pool's."""
        free, surplus = np.full((2, self.steps), [[self._free], [self._totals.surplus]])
        for step, takers in _repeated(self._takers, self._size, self.steps):
            free[step:] -= len(takers)
            surplus[step:] += sum(self._new_surplus(seq, seq.computed + step) for _, seq in takers)
        tokens = self._tokens + self._sequences * np.arange(1, self.steps + 1, dtype=np.int64)
        return (self._totals.split(self._occupancy, tokens, free, surplus),)

    def _new_surplus(self, seq: Sequence, length: int) -> int:
        """Room in the block that begins after ``length`` tokens that will never be used."""
        return max(length + self._size - self._manager.holdings[seq.id].final, 0)

    # Doing it.

    def _adds_up_usage(self) -> bool:
        return False

    def _apply(self, steps: int) -> None:
        """Take blocks as the steps would, in the same order."""
        manager, totals, pool = self._manager, self._totals, self._manager.pool
        size, holdings, changes = self._size, manager.holdings, self._changes
        late = manager.caching and manager.hears_late
        early = manager.caching and not manager.hears_late
        first = 0
        for step, due in _repeated(self._due.agenda(None), size, steps):
            if step > first:
                changes.append((step - first, pool.free, totals.surplus))
                first = step
            for _, seq in due:
                length, holding = seq.computed + step, holdings[seq.id]
                if not length % size:
                    holding.tables[0].blocks.append(pool.take_one())
                    if length + size > holding.final:
                        totals.grew(holding)
                    if late and length <= holding.public:
                        manager.publish(holding, length)
                # Blocks of one token are begun and filled in the same step.
                if early and length < holding.public and not (length + 1) % size:
                    manager.publish(holding, length + 1)
        changes.append((steps - first, pool.free, totals.surplus))
        totals.tokens += self._sequences * steps

    def occupied(self, spans: Spans) -> tuple[list[tuple[int, ...]], int]:
        """From change to change, without a look at every step."""
        tokens, grown = self._tokens, self._sequences
        token_ticks = free_ticks = surplus_ticks = duration = 0
        changes = iter(self._changes)
        left = free = surplus = 0
        for steps, ticks in spans:
            token_ticks += ticks * (steps * tokens + grown * (steps * (steps + 1) // 2))
            tokens += grown * steps
            duration += steps * ticks
            while steps:
                if not left:
                    left, free, surplus = next(changes)
                taken = steps if steps < left else left
                free_ticks += taken * ticks * free
                surplus_ticks += taken * ticks * surplus
                steps -= taken
                left -= taken
        part = self._totals.split(self._occupancy, token_ticks, free_ticks, surplus_ticks, duration)
        most: Any = self._totals.split(self._occupancy, tokens, free, surplus).live
        return [counts_of(part)], most * part.cell_bytes


def _repeated(
    agenda: list[tuple[int, list[Ranked]]], period: int, steps: int
) -> Iterator[tuple[int, list[Ranked]]]:
    """An agenda of ``period`` steps again and again, up to ``steps``."""
    for start in range(0, steps, period):
        for ahead, due in agenda:
            if start + ahead >= steps:
                return
            yield start + ahead, due
