"""When steps ended, and how many sequences went on streaming in each, as runs of equal steps."""

from __future__ import annotations

from array import array
from typing import Any, TypeAlias

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
        self._counts = array("q")
        self._ticks = array("q")
        self._ends = array("q")
        """The end of the last step of every run, in ticks."""
        self._streaming = array("q")

    def append(self, steps: int, ticks: int, end: int, streaming: int) -> None:
        """Add steps of ``ticks`` ticks each, the last of which ends at ``end``.

        streaming: sequences that get a token in each of them and got one in the step before.
        """
        self.steps += steps
        self.last_end = end
        self._counts.append(steps)
        self._ticks.append(ticks)
        self._ends.append(end)
        self._streaming.append(streaming)

    def extend(self, start: int, spans: Spans, streaming: int) -> None:
        """Add spans that follow one another from ``start`` (ticks) on."""
        for steps, ticks in spans:
            start += steps * ticks
            self.append(steps, ticks, start, streaming)

    def follow_with(self, other: StepLog) -> None:
        """Append all steps of another engine."""
        self.steps += other.steps
        self.last_end = other.last_end
        self._counts += other._counts
        self._ticks += other._ticks
        self._ends += other._ends
        self._streaming += other._streaming

    @property
    def ends(self) -> NDArray[np.float64]:
        """The end of every step in seconds, shape (steps,); made anew at every call."""
        counts, ticks, ends = map(_ints, (self._counts, self._ticks, self._ends))
        last = np.cumsum(counts)
        behind = np.repeat(last, counts) - 1 - np.arange(self.steps, dtype=np.int64)
        return (np.repeat(ends, counts) - behind * np.repeat(ticks, counts)) / TICKS_PER_SECOND

    def gaps(self) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Times between two tokens of streaming sequences: seconds, and how often each."""
        counts, ticks, ends, streaming = map(
            _ints, (self._counts, self._ticks, self._ends, self._streaming)
        )
        before = np.concatenate(([0], ends[:-1]))
        first = ends - (counts - 1) * ticks - before
        seconds = np.concatenate([first, ticks]) / TICKS_PER_SECOND
        times = np.concatenate([streaming, streaming * (counts - 1)])
        return seconds[times > 0], times[times > 0]


def _ints(values: array[Any]) -> NDArray[np.int64]:
    return np.array(values, dtype=np.int64)
