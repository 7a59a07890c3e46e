"""Decode runs in which tables of one group of full attention grow, and nothing else happens.

No arrays over steps are made unless somebody asks: between two steps in which any table takes a
block, attention loads the same blocks, and the counts of cells move by one token a sequence.
"""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf

import numpy as np

from sim.clock import to_ticks
from sim.decode_run import DecodeRun, Priced, steps_up_to
from sim.paging.manager import BlockManager
from sim.paging.occupancy import Occupancy, Totals
from sim.paging.run import Members
from sim.schedulers.calendar import Ranked
from sim.sequence import Sequence
from sim.step import Reads
from sim.step_log import Spans
from sim.timing.base import DecodeClock
from sim.usage import Usage
from sim.work import size_of


class GrowingRun(DecodeRun):
    """A plan for all holders of ``manager``'s blocks, who decode; it changes ``totals`` as well.

    due: when each of them takes a block.
    """

    def __init__(
        self,
        manager: BlockManager,
        totals: Totals,
        occupancy: Occupancy,
        seqs: SequenceOf[Sequence],
        due: Members,
        steps: int,
    ) -> None:
        self._manager = manager
        self._totals = totals
        self._occupancy = occupancy
        self._sequences = size_of(seqs)
        self._size: int = manager.groups[0].size
        self._free: int = manager.pool.free
        self._entries: int = totals.entries
        self._tokens: int = totals.tokens
        self._surplus: int = totals.surplus
        self._members = due
        agenda = due.agenda(steps, True)
        self._steps: list[int] = agenda.steps
        """Those in which any table takes a block, and the end."""
        self._takers: list[list[Ranked]] = agenda.due
        """Whose does in each of them; nobody's at the end."""
        self._loaded: list[int] = []
        """Cells that are loaded by a step of each span that was priced."""
        self._found: list[tuple[int, int]] = []
        """(step, surplus that turned up in it), of the steps taken."""
        super().__init__(self._steps_with_room(steps))
        self._steps.append(self.steps)
        self._takers.append([])

    def _steps_with_room(self, steps: int) -> int:
        """Up to that in which more blocks would be taken than are free; the rest is cut off."""
        free = self._free
        for index in range(len(self._takers)):
            free -= len(self._takers[index])
            if free < 0:
                steps = self._steps[index]
                del self._steps[index:], self._takers[index:]
                break
        return steps

    # What it will be like.

    def priced(self, clock: DecodeClock, room: int) -> Priced | None:
        """From one step in which a table takes a block to the next."""
        spans, size, n = Spans(), self._size, self._sequences
        counts, each, start = spans.counts, spans.ticks, clock.start
        loaded = self._loaded = []
        entries, tokens, first, duration = self._entries, self._tokens, 0, 0
        for index in range(len(self._steps)):
            step = self._steps[index]
            if step > first:
                attention = clock.attention(0, entries * size, tokens + n * step, entries)
                if attention < 0:
                    return None
                ticks = to_ticks(start + attention)
                is_last = duration + (step - first) * ticks >= room
                steps = (
                    steps_up_to(room - duration, ticks, step - first) if is_last else step - first
                )
                counts.append(steps)
                each.append(ticks)
                loaded.append(entries * size)
                duration += steps * ticks
                first += steps
                if is_last:
                    break
            entries += len(self._takers[index])
        spans.steps, spans.duration = first, duration
        return Priced(spans, [loaded])

    def _foreseen_reads(self) -> tuple[Reads, ...]:
        """Whole blocks and live pairs."""
        entries = np.full(self.steps, self._entries, dtype=np.int64)
        for step, takers in zip(self._steps, self._takers, strict=True):
            entries[step:] += len(takers)
        grown = np.arange(1, self.steps + 1, dtype=np.int64)
        return (Reads(entries * self._size, self._tokens + self._sequences * grown, entries),)

    def _foreseen_usage(self) -> tuple[Usage, ...]:
        """The pool's."""
        surplus = np.full(self.steps, self._surplus)
        for step, takers in zip(self._steps, self._takers, strict=True):
            for _, seq in takers:
                final = self._manager.holdings[seq.id].final
                surplus[step:] += max(seq.computed + step + self._size - final, 0)
        (reads,) = self.reads
        return (self._totals.split(self._occupancy, reads.pairs, reads.cells, surplus),)

    # Doing it.

    def _adds_up_usage(self) -> bool:
        """Nobody prices steps whose reads he has not asked for, but `priced`."""
        return self._reads is not None

    def _apply(self, steps: int) -> None:
        """Take blocks as the steps would, in the same order.

        The prefix cache is told of a full block when the next is begun, a step later than in
        single steps: nobody looks for it before the run is over.
        """
        manager, totals, pool = self._manager, self._totals, self._manager.pool
        size, holdings, caching = self._size, manager.holdings, manager.caching
        for index in range(len(self._steps)):
            step = self._steps[index]
            if step >= steps:
                break
            before = totals.surplus
            for _, seq in self._takers[index]:
                length, holding = seq.computed + step, holdings[seq.id]
                holding.tables[0].blocks.append(pool.take_one())
                if length + size > holding.final:
                    totals.grew(holding)
                if caching and length <= holding.public:
                    manager.publish(holding, length)
            if totals.surplus > before:
                self._found.append((step, totals.surplus - before))
        if caching and not manager.hears_late:
            self._tell_of_the_last(steps)
        totals.tokens += self._sequences * steps

    def _tell_of_the_last(self, steps: int) -> None:
        """Tell the prefix cache of blocks that the last of so many steps has filled."""
        for _, seq in self._members.due(steps - 1):
            length, holding = seq.computed + steps, self._manager.holdings[seq.id]
            if length % self._size == 0 and length <= holding.public:
                self._manager.publish(holding, length)

    def occupied(self, spans: Spans) -> tuple[list[tuple[int, ...]], int]:
        """From take to take, without a look at every step, if that is how they were priced."""
        if self._adds_up_usage():
            return super().occupied(spans)
        totals, n, tokens = self._totals, self._sequences, self._tokens
        counts, each, loaded = spans.counts, spans.ticks, self._loaded
        token_ticks = cell_ticks = 0
        for i in range(len(counts)):
            steps, ticks, cells = counts[i], each[i], loaded[i]
            taken = steps * ticks
            cell_ticks += taken * cells
            token_ticks += taken * tokens + ticks * n * (steps * (steps + 1) // 2)
            tokens += n * steps
        surplus_ticks = self._surplus * spans.duration
        for step, more in self._found:
            surplus_ticks += more * (spans.duration - spans.ticks_before(step))
        used = totals.integrals(
            self._occupancy, token_ticks, cell_ticks, surplus_ticks, spans.duration
        )
        return [used], totals.live(tokens) * self._occupancy.cell_bytes
