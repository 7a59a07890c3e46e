"""One simulated run of a cluster."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any, NamedTuple

import numpy as np
import simpy
from numpy.typing import NDArray

from sim.clock import to_ticks
from sim.cluster.cluster import Cluster, Completed, Pool
from sim.cluster.disaggregated import Disaggregated
from sim.cluster.router import router_of
from sim.cluster.summary import cluster_summary
from sim.cluster.tiers import Tiers
from sim.driver import Driver
from sim.engine import Engine
from sim.instant import Turn
from sim.link import FairLink
from sim.policies.base import Policy
from sim.recorder import Recorder
from sim.schedulers.base import Scheduler
from sim.timing.base import TimeModel
from workloads.errors import InputError
from workloads.request import Request, Workload


@dataclass(frozen=True)
class Plan:
    """What a cluster is made of.

    replicas: engines that serve; with ``prefill`` others before them that compute prompts only.
    router: name of the router before each of the two pools. seed: of routers that draw.
    link_bandwidth, link_latency: of the link between the pools, bytes a second and seconds.
    """

    replicas: int = 1
    prefill: int = 0
    router: str = "round-robin"
    router_options: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    link_bandwidth: float = 50e9
    link_latency: float = 0.0


class Parts(NamedTuple):
    """What one engine is made of."""

    policy: Policy
    scheduler: Scheduler
    time_model: TimeModel
    tiers: Tiers | None = None


@dataclass(frozen=True)
class FinishedCluster:
    """A run that is over.

    recorder: of all replicas together. columns: further columns of its requests. summary: figures
    of the cluster as such. cpu_s: CPU seconds of the simulation itself.
    """

    recorder: Recorder
    columns: dict[str, NDArray[np.int64]]
    summary: dict[str, Any]
    cpu_s: float


class ClusterSimulation(Driver):
    """Puts a cluster and its traffic on one clock and lets it run dry.

    ``make`` makes the parts of one engine on a clock, fresh ones at every call.
    """

    def __init__(
        self,
        workload: Workload,
        make: Callable[[simpy.Environment], Parts],
        plan: Plan,
        *,
        with_maps: bool = False,
        window: tuple[float, float] | None = None,
        exact_steps: bool = False,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        super().__init__(workload, progress)
        self._plan = plan
        self._make = make
        self._turns: list[Turn] = []
        self._made = count()
        self._with_maps = with_maps
        self._window = window
        self._exact_steps = exact_steps
        self._cluster = self._built()

    def submit(self, request: Request) -> None:
        """To the router."""
        self._cluster.submit(request)

    def run(self) -> FinishedCluster:
        """Run until every request is done; raises `InputError` for arrivals out of order."""
        cpu_s = self.drain()
        cluster = self._cluster
        recorder = cluster.record()
        replicas = {"replica": [served.end.engine for served in cluster.served]}
        if len(cluster.engines) == 1:
            replicas["replica"] = [0] * len(recorder.rows)
        if isinstance(cluster, Disaggregated):
            replicas["prefill_replica"] = [
                (served.begin or served.end).engine for served in cluster.served
            ]
        columns = {name: np.array(numbers, dtype=np.int64) for name, numbers in replicas.items()}
        return FinishedCluster(recorder, columns, cluster_summary(cluster), cpu_s)

    def _built(self) -> Cluster:
        plan = self._plan
        if not plan.prefill:
            return Cluster(self._pool(plan.replicas, self._served), self.completed)
        link = FairLink(self.env, plan.link_bandwidth, plan.link_latency)
        prefill = self._pool(plan.prefill, self._prompt_done)
        serving = self._pool(plan.replicas, self._served)
        scheduler = serving.engines[0].scheduler
        if not scheduler.takes_over:
            raise InputError(
                f"{scheduler.name!r} takes over no prompts that other replicas have computed; "
                "expected a scheduler that does, such as 'vllm'"
            )
        return Disaggregated(self.env, prefill, serving, link, self.completed)

    def _pool(self, engines: int, done: Completed) -> Pool:
        plan = self._plan
        router = router_of(plan.router, engines, plan.seed, plan.router_options)
        return Pool([self._engine(done) for _ in range(engines)], router)

    def _engine(self, done: Completed) -> Engine:
        policy, scheduler, time_model, tiers = self._make(self.env)
        recorder = Recorder(policy, self._with_maps)
        if self._window is not None:
            start, end = self._window
            recorder.samples.only_between(to_ticks(start), to_ticks(end))
        engine = Engine(
            *(self.env, policy, scheduler, time_model, recorder, done, self._exact_steps),
            peers=self._turns,
            numbers=count(next(self._made), self._plan.replicas + self._plan.prefill),
        )
        if tiers is not None:
            engine.hooks.append(tiers)
        return engine

    def _served(self, request: Request, at: float) -> None:
        self._cluster.completed(request, at)

    def _prompt_done(self, part: Request, at: float) -> None:
        if isinstance(self._cluster, Disaggregated):
            self._cluster.prompt_done(part, at)
