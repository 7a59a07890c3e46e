"""Feeds the traffic of a workload to whatever serves it, and lets the clock run dry."""

from __future__ import annotations

import gc
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator
from functools import partial
from typing import Any

import simpy

from sim.clock import on_tick
from workloads.errors import InputError
from workloads.request import Request, Workload

REPORT_EVERY = 256
"""Requests between two calls of a progress function."""
COLLECT_EVERY = 50_000
"""Objects made between two looks for garbage that refers to itself."""


class Driver(ABC):
    """One run of a workload. ``progress`` is called with the number of completed requests."""

    def __init__(self, workload: Workload, progress: Callable[[int], None] | None) -> None:
        self.env = simpy.Environment()
        self._traffic = workload.traffic()
        self._progress = progress
        self._completed = 0

    @abstractmethod
    def submit(self, request: Request) -> None:
        """Serve a request that arrives now; `completed` is to be called when that is done."""

    def drain(self) -> float:
        """Run until every request is done; CPU seconds that it took.

        Raises `InputError` for arrivals out of order.
        """
        self.env.process(self._arrivals())
        before = time.process_time()
        # Hardly anything here refers to itself: looking for what does so takes time.
        thresholds = gc.get_threshold()
        gc.set_threshold(COLLECT_EVERY, *thresholds[1:])
        try:
            self.env.run()
        finally:
            gc.set_threshold(*thresholds)
        return time.process_time() - before

    def completed(self, request: Request, at: float) -> None:
        """``request`` is done or given up, at ``at`` (seconds): now."""
        self._completed += 1
        if self._progress is not None and not self._completed % REPORT_EVERY:
            self._progress(self._completed)
        for following in self._traffic.completed(request, at):
            # A process for each would be started, go on and end: three events.
            timeout = self.env.timeout(self._delay_of(following))
            timeout.callbacks.append(partial(self._arrived, following))

    def _arrivals(self) -> Generator[simpy.Event, Any, None]:
        for request in self._traffic.arrivals():
            delay = self._delay_of(request)
            if delay:
                yield self.env.timeout(delay)
            self.submit(request)

    def _arrived(self, request: Request, _: simpy.Event) -> None:
        self.submit(request)

    def _delay_of(self, request: Request) -> float:
        """Seconds from now to its arrival, which is put on a tick."""
        request.arrival = on_tick(request.arrival)
        delay = request.arrival - self.env.now
        if delay < 0:
            raise InputError(f"request {request.id} arrives at {request.arrival} s, out of order")
        return delay
