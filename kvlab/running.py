"""Runs what a configuration describes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kvlab.config import Comparison, RunConfig
from sim.cluster.simulation import ClusterSimulation, FinishedCluster, Parts
from sim.cluster.tiers import Pools
from sim.hardware import hardware_of
from sim.metrics import request_columns, summary_of, timeline_columns
from sim.plugins import policy_of, scheduler_of, time_model_of
from sim.recorder import Recorder
from sim.schedulers.base import Scheduler
from sim.speculation import rates_of
from workloads.spec import workload_of

if TYPE_CHECKING:
    import simpy

    from reports.results import RunResult

Progress = Callable[[str, int], None]
"""Called with a policy's name and the number of its requests that are done."""


@dataclass(frozen=True)
class Simulated:
    """A simulation that is over, of which no tables have been made."""

    finished: FinishedCluster
    schedulers: list[Scheduler]
    prefix_identity: str


def simulate(
    config: RunConfig,
    *,
    with_maps: bool = True,
    window: tuple[float, float] | None = None,
    progress: Progress | None = None,
) -> Simulated:
    """Simulate one run. Raises `InputError` for anything in ``config`` that cannot be used.

    with_maps: sample who owns which cells. window: sample between these seconds alone, closely.
    """
    budget = config.budget()
    workload = workload_of(
        config.workload,
        requests=config.requests,
        rate=config.rate,
        seed=config.seed,
        **config.workload_options,
    )
    time_model = time_model_of(config.time_model, budget, config.hardware)

    schedulers: list[Scheduler] = []
    pools = Pools()

    def parts(env: simpy.Environment) -> Parts:
        policy, tiers = policy_of(config.policy, budget, policy_options_of(config)), None
        if not config.tiers.are_none:
            policy, tiers = config.tiers.below(policy, env, hardware_of(config.hardware), pools)
        scheduler = scheduler_of(config.scheduler, policy, _scheduler_options(config))
        if config.speculation is not None and config.speculates:
            scheduler.speculate(
                config.speculation.speculation(
                    budget, config.time_model, config.hardware, config.seed
                )
            )
        schedulers.append(scheduler)
        return Parts(policy, scheduler, time_model, tiers)

    finished = ClusterSimulation(
        workload,
        parts,
        config.cluster.plan(config.seed),
        with_maps=with_maps,
        window=window,
        exact_steps=config.exact_steps,
        progress=None if progress is None else lambda done: progress(config.policy, done),
    ).run()
    return Simulated(finished, schedulers, workload.prefix_identity)


def run(
    config: RunConfig,
    *,
    with_maps: bool = True,
    window: tuple[float, float] | None = None,
    progress: Progress | None = None,
) -> RunResult:
    """`simulate`, and what came of it as tables and figures."""
    from reports.results import RunResult

    done = simulate(config, with_maps=with_maps, window=window, progress=progress)
    finished, schedulers = done.finished, done.schedulers
    recorder = finished.recorder
    columns = request_columns(recorder)
    summary = summary_of(recorder, columns, config.objectives())
    summary |= {
        name: sum(each.counts[name] for each in schedulers) for name in schedulers[0].counts
    }
    if config.speculates:
        summary |= rates_of(summary)
    summary |= {
        "policy": config.policy,
        "prefix_identity": done.prefix_identity,
        "lossy": recorder.policy.lossy,
        "caches": _caches_of(recorder),
        "cpu_s": finished.cpu_s,
        "events": recorder.events,
    }
    if not (config.cluster.is_one_engine and config.tiers.are_none):
        columns |= finished.columns
        summary["cluster"] = finished.summary
    return RunResult.of(
        config.model_dump(mode="json", exclude_none=True),
        columns,
        timeline_columns(recorder),
        summary,
    )


def policy_options_of(config: RunConfig) -> dict[str, Any]:
    """The policy's own options; ``block_size`` goes to every policy that has one."""
    from dataclasses import fields

    from sim.registries import POLICIES

    known = {field.name for field in fields(POLICIES.load(config.policy).Options)}
    common = {"block_size": config.block_size} if "block_size" in known else {}
    return common | config.policy_options


def _scheduler_options(config: RunConfig) -> dict[str, Any]:
    """The scheduler's own options; TTFT objectives go to a scheduler that looks at them."""
    from dataclasses import fields

    from sim.registries import SCHEDULERS

    known = {field.name for field in fields(SCHEDULERS.load(config.scheduler).Options)}
    ttft_s = {name: each.ttft_s for name, each in config.objectives().items()}
    return ({"ttft_s": ttft_s} if "ttft_s" in known else {}) | config.scheduler_options


def _caches_of(recorder: Recorder) -> list[dict[str, Any]]:
    """Name and size of the caches of a policy that has any; of several replicas one by one."""
    return [
        {"name": name, "cells": int(part.capacity), "cell_bytes": part.cell_bytes}
        for name, part in zip(recorder.cache_names(), recorder.usage(), strict=True)
        if part.capacity
    ]


def compare(
    comparison: Comparison, *, with_maps: bool = True, progress: Progress | None = None
) -> dict[str, RunResult]:
    """One run after the other, by policy."""
    runs = list(comparison.runs())
    return {each.policy: run(each, with_maps=with_maps, progress=progress) for each in runs}
