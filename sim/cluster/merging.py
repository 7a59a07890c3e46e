"""One record of several engines: what a run directory holds of a cluster."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as SequenceOf
from typing import Any, NamedTuple

from sim.recorder import Recorder
from sim.samples import MOST_ROWS
from sim.usage import Usage

_SUMMED = ("preemptions", "recomputed_tokens")


class Row(NamedTuple):
    """One row of one engine's record. engine: its number. line: its place there."""

    engine: int
    line: int


class Served(NamedTuple):
    """A sequence, by the row where it ended and, if it began elsewhere, the one where it began.

    output: tokens that were asked for.
    """

    end: Row
    begin: Row | None
    output: int


class MergedRecorder(Recorder):
    """The records of engines that share a clock, put together.

    Steps stand one engine after the other, requests in the order of ``served``. ``peak_live`` is
    that of the fullest engine times their number, so that its share is that of the fullest.
    """

    def __init__(self, parts: SequenceOf[Recorder], served: SequenceOf[Served]) -> None:
        super().__init__(parts[0].policy)
        self._parts = parts
        self._offsets = []
        for part in parts:
            self._offsets.append(self.log.steps)
            self.log.follow_with(part.log)
            self.cell_ticks += part.cell_ticks
            self.running_ticks += part.running_ticks
            self.busy_ticks += part.busy_ticks
            self.events += part.events
            self.tally.add(part.tally)
        self.peak_live = max(part.peak_live for part in parts) * len(parts)
        self.samples.rows = merged_timeline([part.samples.rows for part in parts], self._empty())
        for each in served:
            self._take(each)

    def usage(self) -> tuple[Usage, ...]:
        """The caches of one engine after those of the other."""
        return tuple(usage for part in self._parts for usage in part.usage())

    def evictions(self) -> int:
        """Of all engines."""
        return sum(part.evictions() for part in self._parts)

    def cache_names(self) -> list[str]:
        """With the number of the engine."""
        return [
            f"replica {number}: {name}"
            for number, part in enumerate(self._parts)
            for name in part.cache_names()
        ]

    def _take(self, served: Served) -> None:
        end, begin = served.end, served.begin
        last = self._parts[end.engine]
        values = last.rows[end.line] | {"output": served.output}
        stretches, pauses = self._stretches(end), last.pauses[end.line]
        if begin is not None:
            first = self._parts[begin.engine].rows[begin.line]
            for name in _SUMMED:
                values[name] += first[name]
            values["prefix_hit_tokens"] = first["prefix_hit_tokens"]
            if values["status"] == "finished":
                for name in ("first_scheduled_s", "first_token_s"):
                    values[name] = first[name]
                stretches = self._stretches(begin) + stretches
                pauses = self._parts[begin.engine].pauses[begin.line] + pauses
        self.rows.append(tuple(values.values()))
        kinds = [self._parts[row.engine].pause_kinds[row.line] for row in (begin, end) if row]
        self.stretches.append(stretches)
        self.pauses.append(pauses)
        self.pause_kinds.append([kind for each in kinds for kind in each])

    def _stretches(self, row: Row) -> list[list[int]]:
        """The steps of a row, counted over all engines."""
        offset = self._offsets[row.engine]
        found = self._parts[row.engine].stretches[row.line]
        return [[first + offset, last + offset] for first, last in found]

    def _empty(self) -> list[dict[str, int]]:
        """Bytes of each engine's caches before its first step."""
        sizes = [
            [usage.capacity * usage.cell_bytes for usage in part.usage()] for part in self._parts
        ]
        return [
            {
                "free_bytes": sum(each),
                "capacity_bytes": sum(each),
                "largest_free_run_bytes": max(each, default=0),
            }
            for each in sizes
        ]


def merged_timeline(
    parts: SequenceOf[list[dict[str, Any]]], empty: SequenceOf[dict[str, int]]
) -> list[dict[str, Any]]:
    """Rows of all engines together, at every time at which one of them has a row.

    The others stand as in their last row before that, or ``empty``. Numbers are summed, but of
    free runs the largest is taken; maps of cells stand one engine after the other. Every n-th
    time is kept, so that there are not too many.
    """
    names = next((list(rows[0]) for rows in parts if rows), [])
    plain = [name for name in names if not name.startswith("owners_") and name != "time_s"]
    times = sorted({row["time_s"] for rows in parts for row in rows})
    times = times[:: -(-len(times) // MOST_ROWS) or 1]
    columns = [_stepwise(rows, times, first) for rows, first in zip(parts, empty, strict=True)]
    merged = []
    for time, *states in zip(times, *columns, strict=True):
        row: dict[str, Any] = {"time_s": time}
        for name in plain:
            numbers = [state.get(name, 0) for state in states]
            row[name] = max(numbers) if name == "largest_free_run_bytes" else sum(numbers)
        maps = [
            state[name] for state in states for name in sorted(state) if name.startswith("owners_")
        ]
        merged.append(row | {f"owners_{i}": cells for i, cells in enumerate(maps)})
    return merged


def _stepwise(
    rows: list[dict[str, Any]], times: list[float], first: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """The last of ``rows`` at each of the rising ``times``."""
    maps = {name: cells * 0 - 1 for name, cells in _maps_of(rows).items()}
    state, index = first | maps, 0
    for time in times:
        while index < len(rows) and rows[index]["time_s"] <= time:
            state = rows[index]
            index += 1
        yield state


def _maps_of(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {name: value for row in rows[:1] for name, value in row.items() if "owners_" in name}
