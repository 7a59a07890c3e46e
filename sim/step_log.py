"""When steps ended, and how many sequences went on streaming in each, as runs of equal steps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from sim.packing import integers

PACKED: Final = 4096
"""Runs of equal steps that are packed at once."""


class Spans:
    """Steps one right after the other: so many, of so many ticks each; and so on.

    counts, ticks: of each span its steps, and the ticks of each of them. steps, duration: of all
    spans together.
    """

    def __init__(self) -> None:
        self.counts: list[int] = []
        self.ticks: list[int] = []
        self.steps = 0
        self.duration = 0

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return zip(self.counts, self.ticks, strict=True)

    def add(self, steps: int, ticks: int) -> None:
        """Append a span."""
        self.counts.append(steps)
        self.ticks.append(ticks)
        self.steps += steps
        self.duration += steps * ticks

    def ticks_before(self, step: int) -> int:
        """Ticks of all steps before number ``step``, which is counted from 0."""
        before, span = 0, 0
        while step >= self.counts[span]:
            before += self.counts[span] * self.ticks[span]
            step -= self.counts[span]
            span += 1
        return before + step * self.ticks[span]


class StepLog:
    """Steps are numbered from 0. Memory grows with runs of equal steps, not with steps.

    The latest runs are in lists; these are packed into arrays now and then.
    """

    def __init__(self) -> None:
        self.steps = 0
        self.last_end = 0
        """End of the last step, in ticks."""
        self._counts: list[int] = []
        self._ticks: list[int] = []
        self._streaming: list[int] = []
        """Who goes on streaming, in as many runs as `_shared` says for each."""
        self._shared: list[int] = []
        self._packed: list[tuple[NDArray[Any], ...]] = []
        """The same before, in arrays of numbers as small as will do."""
        self._before = 0
        self._waits: dict[int, int] = {}
        """Ticks without a step before a run, by its place; of those that do not follow at once."""

    def append(self, ticks: int, end: int, streaming: int) -> None:
        """Add a step of so many ticks that ends at ``end``.

        streaming: sequences that get a token in it and got one in the step before.
        """
        self._waited(end - ticks)
        self._counts.append(1)
        self._ticks.append(ticks)
        self._streaming.append(streaming)
        self._shared.append(1)
        self.steps += 1
        self.last_end = end

    def extend(self, start: int, spans: Spans, streaming: int) -> None:
        """Add spans that follow one another from ``start`` (ticks) on."""
        self._waited(start)
        self._counts += spans.counts
        self._ticks += spans.ticks
        self._streaming.append(streaming)
        self._shared.append(len(spans.counts))
        self.steps += spans.steps
        self.last_end = start + spans.duration

    def _waited(self, start: int) -> None:
        """Note the time without a step before ``start``, if there was any."""
        if start != self.last_end:
            self._waits[self._runs] = start - self.last_end
        if len(self._counts) >= PACKED:
            self._pack()

    def _pack(self) -> None:
        streaming = np.repeat(integers(self._streaming), integers(self._shared))
        self._packed.append(
            tuple(
                column.astype(np.min_scalar_type(int(column.max(initial=0))))
                for column in (integers(self._counts), integers(self._ticks), streaming)
            )
        )
        self._before += len(self._counts)
        self._counts, self._ticks, self._streaming, self._shared = [], [], [], []

    @property
    def _runs(self) -> int:
        return self._before + len(self._counts)

    def follow_with(self, other: StepLog) -> None:
        """Append all steps of another engine."""
        before = self._runs
        self._waits |= {before + place: wait for place, wait in other._waits.items()}
        if other._runs:
            self._waits[before] = other._waits.get(0, 0) - self.last_end
        self.steps += other.steps
        self.last_end = other.last_end
        self._pack()
        other._pack()
        self._packed += other._packed
        self._before += other._before

    def packed(self) -> tuple[list[tuple[NDArray[Any], ...]], dict[int, int]]:
        """What it holds, for `sim.step_times`: chunks of runs, and waits by the run they precede.

        A chunk has three arrays: steps of each run, ticks of each of them, and who streams.
        """
        if self._counts:
            self._pack()
        return self._packed, self._waits
