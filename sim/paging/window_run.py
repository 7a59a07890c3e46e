"""Decode runs of a paged cache with several groups of layers, or with windows.

Between two steps in which any table takes or loses a block, attention loads the same blocks. So a
plan is the list of those steps; arrays over all steps are made only if somebody asks for them.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence as SequenceOf
from itertools import accumulate

from sim.clock import to_ticks
from sim.decode_run import DecodeRun, Priced, steps_up_to
from sim.errors import IntegrityError
from sim.model import LayerGroup
from sim.paging.forecast import Forecast
from sim.paging.groups import Group
from sim.paging.holding import Holding
from sim.paging.manager import BlockManager
from sim.paging.occupancy import Occupancy, Totals
from sim.paging.reads import reads_of_run
from sim.paging.run import Members
from sim.schedulers.calendar import Ranked
from sim.sequence import Sequence
from sim.step import Reads
from sim.step_log import Spans
from sim.timing.base import DecodeClock
from sim.usage import Usage
from sim.work import lengths_of


class Layers:
    """What plans need to know of a cache, the same for all of them.

    groups: the model's groups of layers. serving: of each of them the row of the cache's groups.
    kinds: what each row is like.
    size: tokens of a block in all groups of attention, if ``even``: then cells are tokens, and
    layers need what their tables have.
    """

    def __init__(
        self,
        manager: BlockManager,
        totals: Totals,
        occupancy: Occupancy,
        groups: tuple[LayerGroup, ...],
        serving: list[Group],
    ) -> None:
        self.manager = manager
        self.totals = totals
        self.occupancy = occupancy
        self.groups = groups
        self.serving = [
            next(i for i, row in enumerate(manager.rows) if group in row) for group in serving
        ]
        self.kinds = [
            LayerGroup(row[0].spec.kind, row[0].spec.layer_ids, row[0].spec.window)
            for row in manager.rows
        ]
        self.size = manager.groups[0].size
        self.even = self._is_even()

    def _is_even(self) -> bool:
        specs = [group.spec for group in self.manager.groups]
        return (
            specs[0].kind != "recurrent"
            and all(
                spec.mode == "none" if spec.kind == "recurrent" else spec.block_size == self.size
                for spec in specs
            )
            and all(
                (group.kind, group.window) == (self.kinds[row].kind, self.kinds[row].window)
                for group, row in zip(self.groups, self.serving, strict=True)
            )
        )


class _Window:
    """What sequences of these lengths attend to in one group of layers, while they decode.

    nulls: entries of their tables that are null.
    """

    __slots__ = ("_kind", "_short", "_skipped", "_summed", "_window", "nulls")

    def __init__(self, layers: LayerGroup, size: int, lengths: list[int]) -> None:
        self._kind = layers.kind
        self._window = window = layers.window
        self._skipped = self.nulls = 0
        self._short: list[int] = []
        """Steps, rising, after which those have a whole window who have less."""
        if layers.kind == "swa":
            for length in lengths:
                if length >= window:
                    self.nulls += (length - window + 1) // size
                elif length < window - 1:
                    self._short.append(window - 1 - length)
            self._short.sort()
        elif layers.kind == "chunked":
            for length in lengths:
                skipped = length // window * window
                self._skipped += skipped
                self.nulls += skipped // size
        self._summed = [0, *accumulate(reversed(self._short))]
        """Sums of the last none, one, two, ... of those."""

    def attended(self, context: int, n: int, first: int, stop: int) -> int:
        """Tokens that ``n`` sequences of ``context`` tokens see in steps ``first .. stop - 1``."""
        steps = stop - first
        if self._kind == "recurrent":
            return 0
        if self._kind != "swa":
            grown = n * (steps * (first + stop + 1) // 2)
            return steps * (context - self._skipped) + grown
        seen, short = steps * n * self._window, self._short
        while first < stop:
            i = bisect_right(short, first)
            left = len(short) - i
            if not left:
                break
            # Up to the step in which the next of them has a whole window.
            until = min(stop, short[i])
            steps = until - first
            seen -= steps * self._summed[left] - left * (steps * (first + until - 1) // 2)
            first = until
        return seen


class _Visit:
    """Those who are due in a step.

    taken: how many tables of each group take a block. dropped: by row, blocks that a group's
    tables give back. free: blocks that are free after the step.
    """

    __slots__ = ("dropped", "due", "free", "step", "taken")

    def __init__(self, step: int, due: list[Ranked], rows: int) -> None:
        self.step = step
        self.due = due
        self.taken = 0
        self.dropped = [0] * rows
        self.free = 0


class WindowRun(DecodeRun):
    """A plan for all holders of blocks, who decode.

    It ends before a step in which a shared block leaves a window, which changes what is shared,
    and before one after which as many as ``wanted`` blocks are free.
    """

    def __init__(
        self,
        layers: Layers,
        seqs: SequenceOf[Sequence],
        due: Members,
        steps: int,
        wanted: int | None,
    ) -> None:
        manager = layers.manager
        self._layers = layers
        self._manager = manager
        self._seqs = seqs
        self._n = len(seqs)
        self._rows = manager.rows
        self._free: int = manager.pool.free
        self._surplus: int = layers.totals.surplus
        self._visits: list[_Visit] = []
        self._context = 0
        self._windows: list[_Window] = []
        """By row, at the end of the last span that was priced."""
        self._spans: list[tuple[int, int]] = []
        """Table entries of a group, and free blocks, during each span that was priced."""
        self._found: list[tuple[int, int]] = []
        """(step, surplus that turned up in it), of the steps taken."""
        super().__init__(self._steps_with_room(steps, due, wanted))

    # How far it reaches.

    def _steps_with_room(self, steps: int, due: Members, wanted: int | None) -> int:
        free, agenda = self._free, due.agenda(steps, False)
        for index in range(len(agenda.steps)):
            visit = _Visit(agenda.steps[index], agenda.due[index], len(self._rows))
            free = self._free_after(visit, free)
            if free < 0 or (wanted is not None and free >= wanted):
                return visit.step
            visit.free = free
            self._visits.append(visit)
        return steps

    def _free_after(self, visit: _Visit, free: int) -> int:
        """Negative where somebody finds no room, or gives a shared block back."""
        step, holdings = visit.step, self._manager.holdings
        for _, seq in visit.due:
            length = seq.computed + step
            holding = holdings[seq.id]
            needed = 0
            for index, row in enumerate(self._rows):
                group, n = row[0], len(row)
                if group.frees:
                    first = holding.tables[group.index].live
                    stop = group.skipped(length) // group.size
                    if stop > first and step:
                        first = max(first, group.skipped(length - 1) // group.size)
                    if stop > first:
                        if self._are_shared(holding, row, first, stop):
                            return -1
                        visit.dropped[index] += stop - first
                        free += n * (stop - first)
                if length % group.size == 0:
                    needed += n
            if needed:
                free -= needed
                visit.taken += 1
                if free < 0:
                    return -1
        return free

    def _are_shared(self, holding: Holding, row: list[Group], first: int, stop: int) -> bool:
        """Whether any of these entries of tables of one type is held by others too."""
        sharers = self._manager.pool.sharers
        if not sharers:
            return False
        tables = holding.tables
        return not all(
            sharers.keys().isdisjoint(tables[each.index].blocks[first:stop]) for each in row
        )

    # What it will be like.

    def priced(self, clock: DecodeClock, room: int) -> Priced | None:
        """From one step in which a table takes or loses a block to the next."""
        layers, n = self._layers, self._n
        if not layers.even or self._windows_overlap():
            return None
        lengths: list[int] = lengths_of(self._seqs).tolist()
        self._context = sum(lengths)
        self._windows = [_Window(kind, layers.size, lengths) for kind in layers.kinds]
        self._spans, held = [], n
        for length in lengths:
            held += length // layers.size
        free, first, spans = self._free, 0, Spans()
        cells: list[list[int]] = [[] for _ in layers.groups]
        end = _Visit(self.steps, [], 0)
        end.taken = 1
        for visit in [*self._visits, end]:
            if visit.step and (visit.taken or any(visit.dropped)):
                ticks = self._ticks(clock, visit.step - 1, held, cells)
                if ticks < 0:
                    return None
                spans.add(steps_up_to(room - spans.duration, ticks, visit.step - first), ticks)
                self._spans.append((held, free))
                if spans.duration >= room:
                    break
                first = visit.step
                held += visit.taken
                for window, more in zip(self._windows, visit.dropped, strict=False):
                    window.nulls += more
            free = visit.free
        return Priced(spans, cells)

    def _windows_overlap(self) -> bool:
        """Whether tables share blocks that their windows leave at different times."""
        if not self._manager.pool.sharers:
            return False
        return Forecast(self._manager, self._seqs, self.steps).shares_first_blocks

    def _ticks(self, clock: DecodeClock, step: int, held: int, cells: list[list[int]]) -> int:
        """Of a step while tables have so many entries in each group; -1 if that is not all.

        Adds what it loads to ``cells``.
        """
        seconds, layers, n = clock.start, self._layers, self._n
        for index, group in enumerate(layers.groups):
            if group.kind == "recurrent":
                loaded, pairs, entries = 2 * n, 0, 0
            else:
                window = self._windows[layers.serving[index]]
                entries = held - window.nulls
                loaded = entries * layers.size
                pairs = window.attended(self._context, n, step, step + 1)
            attention = clock.attention(index, loaded, pairs, entries)
            if attention < 0:
                return -1
            seconds += attention
            cells[index].append(loaded)
        return to_ticks(seconds)

    def _foreseen_reads(self) -> tuple[Reads, ...]:
        """Whole blocks and live pairs, per layer group."""
        layers, lengths = self._layers, lengths_of(self._seqs)
        specs = [layers.manager.rows[serving][0].spec for serving in layers.serving]
        return tuple(
            reads_of_run(group, spec, lengths, self.steps)
            for group, spec in zip(layers.groups, specs, strict=True)
        )

    def _foreseen_usage(self) -> tuple[Usage, ...]:
        """The pool's."""
        forecast = Forecast(self._manager, self._seqs, self.steps)
        return (forecast.usage(self._layers.occupancy),)

    # Doing it.

    def _adds_up_usage(self) -> bool:
        """Nobody prices steps whose reads he has not asked for, but `priced`."""
        return self._reads is not None

    def _apply(self, steps: int) -> None:
        """Take and give back blocks as the steps would, in the same order."""
        manager, totals = self._manager, self._layers.totals
        holdings = manager.holdings
        for visit in self._visits:
            step = visit.step
            if step >= steps:
                break
            before = totals.surplus
            for _, seq in visit.due:
                holding = holdings[seq.id]
                if not manager.extend_by_one(holding, seq.computed + step):
                    raise IntegrityError(f"{seq!r} finds no room in a decode run that was planned")
                totals.grew(holding)
            if totals.surplus > before:
                self._found.append((step, totals.surplus - before))
        manager.step_ends()
        totals.tokens += self._n * steps

    def occupied(self, spans: Spans) -> tuple[list[tuple[int, ...]], int]:
        """From change to change, without a look at every step, if that is how they were priced."""
        if self._adds_up_usage():
            return super().occupied(spans)
        pool, occupancy = self._manager.pool, self._layers.occupancy
        cells, n, context, duration = occupancy.block_cells, self._n, self._context, spans.duration
        live = tokens = entries = free = first = 0
        windows = list(zip(self._windows, self._rows, strict=True))
        for steps, ticks, (held, left) in zip(spans.counts, spans.ticks, self._spans, strict=False):
            stop = first + steps
            tokens += ticks * (steps * context + n * (steps * (first + stop + 1) // 2))
            entries += steps * ticks * held
            free += steps * ticks * left
            for window, row in windows:
                live += ticks * len(row) * window.attended(context, n, first, stop)
            first = stop
        surplus = self._surplus * duration
        for step, more in self._found:
            surplus += more * (duration - spans.ticks_before(step))
        attending = sum([len(row) for row in self._rows if row[0].spec.kind != "recurrent"])
        states = n * cells * (len(self._manager.groups) - attending)
        twice = pool.extra_holds * cells
        live += (states - twice) * duration
        reserved = attending * (entries * self._layers.size - surplus - tokens)
        free *= cells
        internal = occupancy.capacity * duration - free - live - reserved
        most = states - twice
        for window, row in windows:
            most += len(row) * window.attended(context, n, first - 1, first)
        counts = (live, reserved, internal, free, 0, len(pool.sharers) * cells * duration)
        return [counts], most * occupancy.cell_bytes
