"""A measured vLLM run, simulated with its settings and its arrivals."""

from __future__ import annotations

import csv
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from kvlab.vllm_settings import RunSettings, settings_of
from reports.validation import Floats, RunTimes
from sim.metrics import request_columns
from sim.plugins import policy_of
from sim.policies.base import Policy
from sim.recorder import Recorder
from sim.schedulers.vllm import VllmScheduler
from sim.schedulers.vllm_async import AsyncVllmScheduler
from sim.simulation import Simulation
from sim.step_times import StepTimes
from sim.timing.profile import read_profile
from sim.timing.table import ProfileRangeWarning, Table
from workloads.errors import InputError
from workloads.traces.vllm_run import VllmRun


@dataclass(frozen=True)
class Validation:
    """Both sides, request by request, and lines about assumptions and doubtful times."""

    measured: RunTimes
    simulated: RunTimes
    notes: list[str]


def validate(
    directory: str | Path,
    *,
    profile: str | Path | None = None,
    model: str | None = None,
    hardware: str | None = None,
    kv_blocks: int | None = None,
    exact_steps: bool = False,
) -> Validation:
    """Simulate the run in ``directory``; by default its profile is in ``profile`` there.

    model, hardware: names or files, in place of what the run says. kv_blocks: blocks that hold
    K/V. Raises `InputError` for whatever of it cannot be used, and where a request does not
    finish in the simulation.
    """
    root = Path(directory)
    run = VllmRun(root)
    settings = settings_of(root, model=model, hardware=hardware, kv_blocks=kv_blocks)
    layers = len(settings.budget.model.layers)
    table = Table(
        settings.budget,
        settings.hardware,
        read_profile(_profile_of(root, settings) if profile is None else profile, layers),
        settings.costs,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ProfileRangeWarning)
        recorder = _simulated(run, settings, table, exact_steps)
    measured = RunTimes(
        run.times.arrival,
        run.times.queued,
        run.times.scheduled,
        run.times.first_token,
        run.times.last_token,
        run.prompts,
        run.outputs,
        settings.blocks * settings.block_size,
        _reported(root / "timeseries.csv"),
    )
    notes = [*settings.notes]
    if settings.prefix_cache and run.prefix_identity != "exact":
        notes.append("no workload.jsonl: no prefix is taken to be shared")
    if table.profile.decode_skew is None:
        notes.append("the profile has no skew.csv: decodes count as if all had their mean length")
    notes += [f"outside the profile: {line}" for line in table.outside]
    return Validation(measured, _times_of(recorder, measured), notes)


def _profile_of(root: Path, settings: RunSettings) -> Path:
    """The profile beside a run; a bundle of several has one folder for each number of GPUs."""
    profile = root / "profile"
    bundled = profile / f"tp{settings.costs.ring.ranks}"
    return bundled if bundled.is_dir() else profile


def engine_of(settings: RunSettings) -> tuple[Policy, VllmScheduler]:
    """The policy and the scheduler of an engine with these settings."""
    options = {"block_size": settings.block_size, "prefix_cache": settings.prefix_cache}
    policy = policy_of("paged", settings.budget, options)
    limits = VllmScheduler.Options(
        max_seqs=settings.budget.max_seqs,
        max_batched_tokens=settings.budget.max_batched_tokens,
        max_model_len=settings.budget.max_model_len,
        chunked_prefill=settings.chunked_prefill,
    )
    return policy, (AsyncVllmScheduler if settings.is_async else VllmScheduler)(policy, limits)


def _simulated(run: VllmRun, settings: RunSettings, table: Table, exact_steps: bool) -> Recorder:
    policy, scheduler = engine_of(settings)
    simulation = Simulation(run, policy, scheduler, table, exact_steps=exact_steps)
    return simulation.run().recorder


def _times_of(recorder: Recorder, measured: RunTimes) -> RunTimes:
    columns = request_columns(recorder)
    failed = [reason for reason in columns["reason"] if reason]
    if failed:
        raise InputError(
            f"{len(failed)} requests cannot be served with these settings: {failed[0]}"
        )
    order = np.argsort(columns["request"])
    arrival, waited, ttft, e2e = (
        columns[name][order] for name in ("arrival_s", "queue_s", "ttft_s", "e2e_s")
    )
    # A busy engine takes in what has come when a step ends, an idle one at once.
    ends = StepTimes(recorder.log).ends_between(0, recorder.log.steps)
    queued = np.where(waited == 0, arrival, ends[np.searchsorted(ends, arrival) % len(ends)])
    return replace(
        measured,
        arrival=arrival,
        queued=queued,
        scheduled=arrival + waited,
        first_token=arrival + ttft,
        last_token=arrival + e2e,
        reported=None if measured.reported is None else _in_use(recorder),
    )


def _in_use(recorder: Recorder) -> tuple[Floats, Floats]:
    """Seconds, and the share of the blocks that some sequence held at each of them."""
    rows = recorder.samples.rows
    shares = [1 - row["free_bytes"] / row["capacity_bytes"] for row in rows]
    return np.array([row["time_s"] for row in rows]), np.array(shares)


def _reported(path: Path) -> tuple[Floats, Floats] | None:
    """``t`` and ``kv_cache_pct`` of the engine's log; None where it has nothing but zeros.

    Raises `InputError` for a file without these columns.
    """
    if not path.exists():
        return None
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [(float(row["t"]), float(row["kv_cache_pct"])) for row in csv.DictReader(file)]
    except KeyError as error:
        raise InputError(f"{path}: expected the column {error}") from None
    except (TypeError, ValueError, OSError) as error:
        raise InputError(f"{path}: expected numbers: {error}") from error
    times, percent = np.array(rows, dtype=np.float64).reshape(-1, 2).T
    return (times, percent / 100) if percent.any() else None
