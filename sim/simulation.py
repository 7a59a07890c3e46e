"""One simulated run: traffic through an engine, from the first arrival to the last token."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

import simpy

from sim.clock import on_tick, to_ticks
from sim.engine import Engine
from sim.policies.base import Policy
from sim.recorder import Recorder
from sim.schedulers.base import Scheduler
from sim.timing.base import TimeModel
from workloads.errors import InputError
from workloads.request import Request, Workload

REPORT_EVERY = 256
"""Requests between two calls of a progress function."""


@dataclass(frozen=True)
class Finished:
    """A run that is over. cpu_s: CPU seconds of the simulation itself."""

    recorder: Recorder
    cpu_s: float


class Simulation:
    """Puts the parts of a run on one clock and lets it run dry."""

    def __init__(
        self,
        workload: Workload,
        policy: Policy,
        scheduler: Scheduler,
        time_model: TimeModel,
        *,
        with_maps: bool = False,
        window: tuple[float, float] | None = None,
        exact_steps: bool = False,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        self._env = simpy.Environment()
        self._traffic = workload.traffic()
        self._recorder = Recorder(policy, with_maps)
        if window is not None:
            self._recorder.samples.only_between(to_ticks(window[0]), to_ticks(window[1]))
        self._engine = Engine(
            self._env,
            policy,
            scheduler,
            time_model,
            self._recorder,
            self._on_completed,
            exact_steps,
        )
        self._progress = progress
        self._completed = 0

    def run(self) -> Finished:
        """Run until every request is done; raises `InputError` for arrivals out of order."""
        self._env.process(self._arrivals())
        before = time.process_time()
        self._env.run()
        return Finished(self._recorder, time.process_time() - before)

    def _arrivals(self) -> Generator[simpy.Event, Any, None]:
        for request in self._traffic.arrivals():
            yield from self._arrive(request)

    def _arrive(self, request: Request) -> Generator[simpy.Event, Any, None]:
        request.arrival = on_tick(request.arrival)
        delay = request.arrival - self._env.now
        if delay < 0:
            raise InputError(f"request {request.id} arrives at {request.arrival} s, out of order")
        if delay:
            yield self._env.timeout(delay)
        self._engine.submit(request)

    def _on_completed(self, request: Request, at: float) -> None:
        self._completed += 1
        if self._progress is not None and not self._completed % REPORT_EVERY:
            self._progress(self._completed)
        for following in self._traffic.completed(request, at):
            self._env.process(self._arrive(following))
