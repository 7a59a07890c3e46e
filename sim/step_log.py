"""When steps ended, and how many sequences went on streaming in each, as runs of equal steps."""

from __future__ import annotations

from array import array
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from sim.clock import TICKS_PER_SECOND

Spans: TypeAlias = list[tuple[int, int]]
"""Steps one right after the other: so many, of so many ticks each; and so on."""


def duration_of(spans: Spans) -> int:
    """Ticks of all steps together."""
    return sum([steps * ticks for steps, ticks in spans])


class StepLog:
    """Steps are numbered from 0. Memory grows with runs of equal steps, not with steps."""

    def __init__(self) -> None:
        self.steps = 0
        self.last_end = 0
        """End of the last step, in ticks."""
        self._runs = array("q")
        """Row by row: steps, ticks of each, end of the last in ticks, who went on streaming."""

    def append(self, ticks: int, end: int, streaming: int) -> None:
        """Add a step of so many ticks that ends at ``end``.

        streaming: sequences that get a token in it and got one in the step before.
        """
        self.steps += 1
        self.last_end = end
        self._runs.extend((1, ticks, end, streaming))

    def extend(self, start: int, spans: Spans, streaming: int) -> None:
        """Add spans that follow one another from ``start`` (ticks) on."""
        add, count = self._runs.extend, self.steps
        for steps, ticks in spans:
            count += steps
            start += steps * ticks
            add((steps, ticks, start, streaming))
        self.steps, self.last_end = count, start

    def follow_with(self, other: StepLog) -> None:
        """Append all steps of another engine."""
        self.steps += other.steps
        self.last_end = other.last_end
        self._runs += other._runs

    def _columns(self) -> NDArray[np.int64]:
        return np.array(self._runs, dtype=np.int64).reshape(-1, 4).T

    @property
    def ends(self) -> NDArray[np.float64]:
        """The end of every step in seconds, shape (steps,); made anew at every call."""
        counts, ticks, ends, _ = self._columns()
        last = np.cumsum(counts)
        behind = np.repeat(last, counts) - 1 - np.arange(self.steps, dtype=np.int64)
        return (np.repeat(ends, counts) - behind * np.repeat(ticks, counts)) / TICKS_PER_SECOND

    def gaps(self) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Times between two tokens of streaming sequences: seconds, and how often each."""
        counts, ticks, ends, streaming = self._columns()
        before = np.concatenate(([0], ends[:-1]))
        first = ends - (counts - 1) * ticks - before
        seconds = np.concatenate([first, ticks]) / TICKS_PER_SECOND
        times = np.concatenate([streaming, streaming * (counts - 1)])
        return seconds[times > 0], times[times > 0]
