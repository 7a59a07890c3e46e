"""What all readers have in common: order, slices and scaled times."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from workloads.errors import InputError
from workloads.plugins import check_options, option
from workloads.request import Request, Traffic, Workload
from workloads.traces.lines import MAX_SECONDS, Lines


class Stream(Traffic):
    """Open-loop traffic from requests that are made elsewhere."""

    def __init__(self, requests: Iterator[Request]) -> None:
        self._requests = requests

    def arrivals(self) -> Iterator[Request]:
        """The requests."""
        return self._requests


@dataclass(frozen=True)
class Trace(Workload):
    """A recorded workload. Subclasses turn lines into requests; the rest is done here.

    A slice is taken on the trace's own clock: from ``start``, for ``duration``, at most
    ``requests`` of them. A slice that begins later begins at time 0 and counts ids from 0. Then
    times are divided by ``speedup``, or stretched so that the mean gap is 1 / ``rate``, for which
    the slice is read once more.
    """

    path: str = option(text="the file")
    requests: int | None = option(None, "how many requests; none: all", low=1, high=1e9)
    rate: float | None = option(
        None, "mean requests a second; none: as recorded", low=1e-9, high=1e9
    )
    start: float = option(0.0, "seconds of the trace to leave out", low=0, high=MAX_SECONDS)
    duration: float | None = option(
        None, "seconds of the trace to take; none: all", low=0, high=MAX_SECONDS
    )
    speedup: float = option(1.0, "how many times faster", low=1e-6, high=1e6)

    def __post_init__(self) -> None:
        check_options(self)
        if self.rate is not None and self.speedup != 1:
            raise InputError(f"{self.name}: expected rate or speedup, got both")
        next(iter(Lines(self.path)), None)

    @abstractmethod
    def rows(self, lines: Lines) -> Iterator[Request]:
        """All requests of the file as recorded, one for each line read, ids from 0.

        Raises `InputError` through ``lines`` for whatever is not as the format says.
        """

    def traffic(self) -> Traffic:
        """The trace from its beginning."""
        return Stream(self._scaled())

    def _scaled(self) -> Iterator[Request]:
        factor = self._factor
        for request in self._slice():
            request.arrival *= factor
            yield request

    def _slice(self) -> Iterator[Request]:
        start, limit = self.start, self.requests
        stop = MAX_SECONDS * 2 if self.duration is None else start + self.duration
        lines = Lines(self.path)
        taken, before = 0, 0.0
        for request in self.rows(lines):
            at = request.arrival
            if at < before:
                raise lines.error(
                    f"expected times in order, got one {before - at:g} s before the last"
                )
            before = at
            if at < start:
                continue
            if at >= stop:
                break
            if start:
                request.id, request.arrival = taken, at - start
            yield request
            taken += 1
            if taken == limit:
                break
        if not taken:
            where = "" if start == 0 and self.duration is None else " in the slice"
            raise InputError(f"{self.path}: expected at least one request{where}, got none")

    @cached_property
    def _factor(self) -> float:
        """What times are multiplied by."""
        if self.rate is None:
            return 1 / self.speedup
        count, first, last = 0, 0.0, 0.0
        for count, request in enumerate(self._slice(), 1):
            last = request.arrival
            first = last if count == 1 else first
        if last == first:
            raise InputError(
                f"{self.path}: rate: expected requests at different times, got all at once"
            )
        return (count - 1) / (last - first) / self.rate
