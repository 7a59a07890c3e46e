"""Cells that attention loads, and how many of them nobody needed.

A step needs the cells that its sequences attend to, each sequence for itself. What a policy reads
beyond that, step by step and layer group by layer group, is excess: dead cells, empty ones, those
of other sequences. Where sequences share cells that are read for all of them at once, a step can
read fewer than that; its excess is then 0. A sequence is taken to attend to all of its tokens that
its layers see, so excess is understated where a context shift has dropped some.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence as SequenceOf

import numpy as np

from sim.model import LayerGroup
from sim.reads import attended_in_run, cells_read
from sim.sequence import Sequence
from sim.step import Count, Run, Work


class Scanned:
    """Counts over a whole run. cells, excess: per layer group; recurrent states are left out."""

    def __init__(self, groups: tuple[LayerGroup, ...], cell_bytes: tuple[int, ...]) -> None:
        self.cells = [0] * len(groups)
        self.excess = [0] * len(groups)
        self._groups = [(i, g) for i, g in enumerate(groups) if g.kind != "recurrent"]
        self._cell_bytes = cell_bytes

    def step(self, work: Work, runs: Iterable[Run]) -> None:
        """One step that computes ``runs``."""
        for index, group in self._groups:
            if group.kind == "full":
                needed = work.decode_context + sum(n + start for n, start in work.prefills)
            else:
                needed = sum(cells_read(group, start, n) for _, start, n in runs)
            self._add(index, work.reads[index].cells, needed, 1)

    def run(self, work: Work, seqs: SequenceOf[Sequence], steps: int) -> None:
        """The first ``steps`` decode steps of ``seqs``, which have not been taken yet.

        Whatever computes whole sequences again reads just what it needs.
        """
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
                    lengths = np.array([seq.computed for seq in seqs])
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


def _first(count: Count, steps: int) -> Count:
    return count[:steps] if isinstance(count, np.ndarray) else count
