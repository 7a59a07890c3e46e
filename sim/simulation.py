"""One simulated run: traffic through an engine, from the first arrival to the last token."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sim.clock import to_ticks
from sim.driver import Driver
from sim.engine import Engine
from sim.policies.base import Policy
from sim.recorder import Recorder
from sim.schedulers.base import Scheduler
from sim.timing.base import TimeModel
from workloads.request import Request, Workload


@dataclass(frozen=True)
class Finished:
    """A run that is over. cpu_s: CPU seconds of the simulation itself."""

    recorder: Recorder
    cpu_s: float


class Simulation(Driver):
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
        super().__init__(workload, progress)
        self._recorder = Recorder(policy, with_maps)
        if window is not None:
            self._recorder.samples.only_between(to_ticks(window[0]), to_ticks(window[1]))
        self._engine = Engine(
            self.env, policy, scheduler, time_model, self._recorder, self.completed, exact_steps
        )

    def submit(self, request: Request) -> None:
        """To the engine."""
        self._engine.submit(request)

    def run(self) -> Finished:
        """Run until every request is done; raises `InputError` for arrivals out of order."""
        cpu_s = self.drain()
        return Finished(self._recorder, cpu_s)
