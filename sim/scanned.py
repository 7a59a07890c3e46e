"""Cells that attention loads, and how many of them nobody needed.

A step needs the cells that its sequences attend to, each sequence for itself. What a policy reads
beyond that, step by step and layer group by layer group, is excess: dead cells, empty ones, those
of other sequences. Where sequences share cells that are read for all of them at once, a step can
read fewer than that; its excess is then 0. A sequence is taken to attend to all of its tokens that
its layers see, so excess is understated where a context shift has dropped some.
"""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf
from operator import mul

import numpy as np

from sim.decode_run import Priced
from sim.model import LayerGroup
from sim.reads import attended_by_run, attended_in_run, cells_read, cells_read_each
from sim.schedulers.runs import parts_of
from sim.sequence import Sequence
from sim.step import Count, Run, Work
from sim.step_log import Spans
from sim.work import context_of, lengths_of, size_of


class Scanned:
    """Counts over a whole run. cells, excess: per layer group; recurrent states are left out."""

    def __init__(self, groups: tuple[LayerGroup, ...], cell_bytes: tuple[int, ...]) -> None:
        self.cells = [0] * len(groups)
        self.excess = [0] * len(groups)
        self._groups = [(i, g) for i, g in enumerate(groups) if g.kind != "recurrent"]
        self._cell_bytes = cell_bytes

    def step(self, work: Work, runs: SequenceOf[Run]) -> None:
        """One step that computes ``runs``."""
        for index, group in self._groups:
            if group.kind == "full":
                needed = work.decode_context
                for n, start in work.prefills:
                    needed = needed + n + start
            else:
                needed = _needed(group, runs)
            self._add(index, work.reads[index].cells, needed, 1)

    def run(self, taken: Priced, seqs: SequenceOf[Sequence]) -> None:
        """Decode steps of ``seqs`` that were priced and have not been taken yet.

        Whatever computes whole sequences again reads just what it needs.
        """
        if taken.cells is not None:
            self._stretches(taken, taken.cells, seqs)
        elif taken.work is not None:
            self._steps(taken.work, seqs, taken.spans.steps)

    def _stretches(self, taken: Priced, cells: list[list[int]], seqs: SequenceOf[Sequence]) -> None:
        """Spans in each of which the same is loaded."""
        counts = taken.spans.counts
        for index, group in self._groups:
            if group.kind != "full":
                self._windowed_stretches(index, group, taken.spans, cells[index], seqs)
            else:
                self._full_stretches(index, counts, cells[index], seqs)

    def _windowed_stretches(
        self,
        index: int,
        group: LayerGroup,
        spans: Spans,
        loads: list[int],
        seqs: SequenceOf[Sequence],
    ) -> None:
        """Arrays over steps only where some of them may load less than is needed."""
        steps, lengths = spans.steps, lengths_of(seqs)
        loads = loads[: len(spans.counts)]
        most = min(context_of(seqs) + len(seqs) * steps, len(seqs) * group.window)
        if min(loads) >= most:
            loaded = sum(map(mul, spans.counts, loads))
            self.cells[index] += loaded
            self.excess[index] += loaded - attended_by_run(group, lengths, steps)
        else:
            each = np.repeat(np.array(loads), spans.counts)
            self._add(index, each, attended_in_run(group, lengths, steps), steps)

    def _full_stretches(
        self, index: int, counts: list[int], loads: list[int], seqs: SequenceOf[Sequence]
    ) -> None:
        """What is needed rises by a token a sequence from step to step."""
        context, n = context_of(seqs), size_of(seqs)
        loaded = excess = 0
        for span in range(len(counts)):
            steps, cells = counts[span], loads[span]
            after = context + n * steps
            loaded += steps * cells
            if cells >= after:
                excess += steps * (2 * cells - context - after - n) // 2
            else:
                excess += _falling(cells - context - n, n, steps)
            context = after
        self.cells[index] += loaded
        self.excess[index] += excess

    def _steps(self, work: Work, seqs: SequenceOf[Sequence], steps: int) -> None:
        lengths = None
        for index, group in self._groups:
            cells = _first(work.reads[index].cells, steps)
            needed: Count
            if isinstance(work.tokens, np.ndarray):
                needed = cells
            elif group.kind == "full":
                needed = _first(work.decode_context, steps)
            else:
                if lengths is None:
                    lengths = lengths_of(seqs)
                needed = attended_in_run(group, lengths, steps)
            self._add(index, cells, needed, steps)

    def _add(self, index: int, cells: Count, needed: Count, steps: int) -> None:
        if isinstance(cells, np.ndarray) or isinstance(needed, np.ndarray):
            self.cells[index] += int(np.sum(np.broadcast_to(cells, steps)))
            self.excess[index] += int(np.maximum(cells - needed, 0).sum())
        else:
            self.cells[index] += cells
            self.excess[index] += max(0, cells - needed)

    def excess_share(self) -> float | None:
        """Share of the bytes loaded by attention that nobody needed; None where it loads none."""
        loaded, excess = (
            sum(count * size for count, size in zip(counts, self._cell_bytes, strict=True))
            for counts in (self.cells, self.excess)
        )
        return excess / loaded if loaded else None


def _needed(group: LayerGroup, runs: SequenceOf[Run]) -> int:
    """Cells that the tokens of ``runs`` attend to in a group with a window."""
    batch, apart = parts_of(runs)
    needed = sum([cells_read(group, start, n) for _, start, n in apart])
    if batch is not None and batch.size:
        needed += int(cells_read_each(group, batch.lengths - 1, 1).sum())
    return needed


def _falling(first: int, by: int, steps: int) -> int:
    """Sum of the first ``steps`` numbers of ``first``, ``first - by``, ... that are positive."""
    steps = min(steps, max(0, -(-first // by)))
    return steps * first - by * (steps * (steps - 1) // 2)


def _first(count: Count, steps: int) -> Count:
    return count[:steps] if isinstance(count, np.ndarray) else count
