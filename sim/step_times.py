"""When steps ended, and how far apart tokens came: a step log read piece by piece.

However many steps there are, only those that are asked for are written out one by one.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from sim.clock import TICKS_PER_SECOND
from sim.step_log import StepLog

CHUNKS = 64
"""Packed parts of a log that are looked at together."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class _Runs:
    """Runs of equal steps one after the other: steps, ticks of each, end of the last, who streams.

    first: number of the first step. before: end of the step before it (ticks).
    """

    def __init__(self, first: int, before: int, counts: Ints, ticks: Ints, taken: Ints) -> None:
        self.first = first
        self.before = before
        self.counts = counts
        self.ticks = ticks
        self.ends = before + np.cumsum(taken)

    def seconds_at(self, steps: Ints) -> Floats:
        """The ends of these steps, all of which are here."""
        last = self.first - 1 + np.cumsum(self.counts)
        at = np.searchsorted(last, steps)
        return (self.ends[at] - (last[at] - steps) * self.ticks[at]) / TICKS_PER_SECOND


class StepTimes:
    """Times of the steps of a log that is complete."""

    def __init__(self, log: StepLog) -> None:
        self.steps = log.steps
        self._chunks, waits = log.packed()
        self._places = np.cumsum([0, *(len(counts) for counts, _, _ in self._chunks)])
        places = sorted(waits)
        self._wait_places = np.array(places, dtype=np.int64)
        self._waits = np.array([waits[place] for place in places], dtype=np.int64)
        # Numbers of the first steps of all chunks, and when the steps before them ended.
        self._first = np.zeros(len(self._chunks) + 1, dtype=np.int64)
        self._before = np.zeros(len(self._chunks) + 1, dtype=np.int64)
        for chunk in range(len(self._chunks)):
            counts, _, taken = self._columns(chunk, chunk + 1)
            self._first[chunk + 1] = self._first[chunk] + counts.sum()
            self._before[chunk + 1] = self._before[chunk] + taken.sum()

    def _columns(self, start: int, stop: int) -> tuple[Ints, Ints, Ints]:
        """Of the runs of some chunks: steps, ticks of each, and of all and the wait before them."""
        parts = self._chunks[start:stop]
        counts = np.concatenate([part[0] for part in parts], dtype=np.int64)
        ticks = np.concatenate([part[1] for part in parts], dtype=np.int64)
        taken = counts * ticks
        places = self._places[[start, stop]]
        a, b = np.searchsorted(self._wait_places, places)
        taken[self._wait_places[a:b] - places[0]] += self._waits[a:b]
        return counts, ticks, taken

    def _runs(self, start: int, stop: int) -> _Runs:
        columns = self._columns(start, stop)
        return _Runs(int(self._first[start]), int(self._before[start]), *columns)

    def ends_at(self, steps: Ints) -> Floats:
        """The ends of these steps in seconds, in any order, in the same shape."""
        order = np.argsort(steps, kind="stable")
        rising, ends = steps[order], np.empty(len(steps))
        for start in range(0, len(self._chunks), CHUNKS):
            stop = min(start + CHUNKS, len(self._chunks))
            a, b = np.searchsorted(rising, self._first[[start, stop]])
            if a < b:
                ends[order[a:b]] = self._runs(start, stop).seconds_at(rising[a:b])
        return ends

    def ends_between(self, first: int, stop: int) -> Floats:
        """The ends of the steps ``first .. stop - 1`` in seconds."""
        if first >= stop:
            return np.empty(0)
        chunk = int(np.searchsorted(self._first, first, side="right")) - 1
        until = int(np.searchsorted(self._first, stop))
        return self._runs(chunk, until).seconds_at(np.arange(first, stop, dtype=np.int64))

    def gaps(self) -> Iterator[tuple[Floats, Ints]]:
        """Times between two tokens of streaming sequences: seconds, and how often each."""
        for start in range(0, len(self._chunks), CHUNKS):
            stop = min(start + CHUNKS, len(self._chunks))
            runs = self._runs(start, stop)
            parts = [part[2] for part in self._chunks[start:stop]]
            streaming = np.concatenate(parts, dtype=np.int64)
            first = np.diff(runs.ends, prepend=runs.before) - (runs.counts - 1) * runs.ticks
            seconds = np.concatenate([first, runs.ticks]) / TICKS_PER_SECOND
            times = np.concatenate([streaming, streaming * (runs.counts - 1)])
            yield seconds[times > 0], times[times > 0]
