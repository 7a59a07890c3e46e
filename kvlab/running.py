"""Runs what a configuration describes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from kvlab.config import Comparison, RunConfig
from sim.metrics import request_columns, summary_of, timeline_columns
from sim.plugins import policy_of, scheduler_of, time_model_of
from sim.policies.base import Policy
from sim.simulation import Simulation
from workloads.spec import workload_of

if TYPE_CHECKING:
    from reports.results import RunResult

Progress = Callable[[str, int], None]
"""Called with a policy's name and the number of its requests that are done."""


def run(
    config: RunConfig,
    *,
    with_maps: bool = True,
    window: tuple[float, float] | None = None,
    progress: Progress | None = None,
) -> RunResult:
    """Simulate one run. Raises `InputError` for anything in ``config`` that cannot be used.

    with_maps: sample who owns which cells. window: sample between these seconds alone, closely.
    """
    from reports.results import RunResult

    budget = config.budget()
    policy = policy_of(config.policy, budget, _policy_options(config))
    workload = workload_of(
        config.workload,
        requests=config.requests,
        rate=config.rate,
        seed=config.seed,
        **config.workload_options,
    )
    scheduler = scheduler_of(config.scheduler, policy, config.scheduler_options)
    simulation = Simulation(
        workload,
        policy,
        scheduler,
        time_model_of(config.time_model, budget, config.hardware),
        with_maps=with_maps,
        window=window,
        exact_steps=config.exact_steps,
        progress=None if progress is None else lambda done: progress(config.policy, done),
    )
    finished = simulation.run()
    columns = request_columns(finished.recorder)
    summary = summary_of(finished.recorder, columns, config.objectives())
    summary |= dict(scheduler.counts) | {
        "policy": config.policy,
        "prefix_identity": workload.prefix_identity,
        "caches": _caches_of(policy),
        "cpu_s": finished.cpu_s,
    }
    return RunResult.of(
        config.model_dump(mode="json", exclude_none=True),
        columns,
        timeline_columns(finished.recorder),
        summary,
    )


def _policy_options(config: RunConfig) -> dict[str, Any]:
    """The policy's own options; ``block_size`` goes to every policy that has one."""
    from dataclasses import fields

    from sim.plugins import POLICIES

    known = {field.name for field in fields(POLICIES.load(config.policy).Options)}
    common = {"block_size": config.block_size} if "block_size" in known else {}
    return common | config.policy_options


def _caches_of(policy: Policy) -> list[dict[str, Any]]:
    """Name and size of the caches of a policy that has any."""
    return [
        {"name": policy.cache_name(i), "cells": int(part.capacity), "cell_bytes": part.cell_bytes}
        for i, part in enumerate(policy.usage())
        if part.capacity
    ]


def compare(
    comparison: Comparison, *, with_maps: bool = True, progress: Progress | None = None
) -> dict[str, RunResult]:
    """One run after the other, by policy."""
    runs = list(comparison.runs())
    return {each.policy: run(each, with_maps=with_maps, progress=progress) for each in runs}
