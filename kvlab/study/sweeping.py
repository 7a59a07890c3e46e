"""Runs the points of a study in parallel and stores each as soon as it is done."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import kvlab
from kvlab.config import RunConfig
from kvlab.reproduce.findings import Reproduction
from kvlab.study.capacity import Found, Search, search, searches_of
from kvlab.study.code import code_digest
from kvlab.study.experiments import Experiment, experiments_of
from kvlab.study.orphans import end_with
from kvlab.study.points import Point, points_of
from kvlab.study.schema import Study
from reports.results import RunResult
from reports.sweep import FORMAT, Index, Sweep, sweep_at
from workloads.errors import InputError

Done = Callable[[int, int], None]
"""Called with the number of points that are done and that there are."""

DASK_TIMEOUT_S = 10.0
"""So long may it take to reach a Dask scheduler."""
OF_THE_MACHINE = (ImportError, OSError, SyntaxError)
"""What says nothing about a point: another worker, or the next try, may well run it."""
ALWAYS_SAID = frozenset({"model", "hardware", "workload", "scheduler", "time_model", "slo"})
"""Fields of the setting that a page shows also where the study leaves them as they are."""
ROUNDS_WITHOUT_PROGRESS = 2
"""So many times in a row may workers die before any of them finishes a point."""


@dataclass(frozen=True)
class Failure:
    """Why a point could not be run, in one line."""

    reason: str


Outcome = RunResult | Found | Reproduction | Failure
Task = Point | Search | Experiment


def sweep(
    study: Study,
    out: str | Path,
    *,
    jobs: int = -1,
    dask: str | None = None,
    retry: bool = False,
    done: Done | None = None,
) -> Sweep:
    """Run what ``out`` does not hold yet; the result is the same however often it was cut off.

    jobs: processes, -1 for one a core, 1 for none but this. dask: address of a scheduler whose
    workers run the points instead. retry: also run what failed before. Raises `InputError` for a
    study or a directory that cannot be used, and where workers keep dying.
    """
    points, searches, experiments = points_of(study), searches_of(study), experiments_of(study)
    index = index_of(study, points, searches, experiments)
    with sweep_at(out, index) as stored, _workers(dask):
        if retry:
            stored.forget_failures()
        # The longest first: an experiment takes as long as many points.
        every: list[Task] = [*experiments, *points, *searches]
        tasks = {task.id: task for task in every}
        _run_all(stored, tasks, jobs, done or (lambda _done, _all: None))
    return stored


def index_of(
    study: Study, points: list[Point], searches: list[Search], experiments: list[Experiment]
) -> Index:
    """What `reports.sweep.Sweep` says of the study."""
    base = RunConfig(**{"policy": "-", **study.base()}).model_dump(mode="json", exclude_none=True)
    base["slo"] = {name: asdict(each) for name, each in study.objectives().items()}
    stated = ALWAYS_SAID | study.base().keys()
    axes = study.axes()
    varied = {"policy", "policy_options", "seed"} | {
        field for axis in axes for value in axis.values for field in value.fields
    }
    return {
        "format": FORMAT,
        "kvlab": kvlab.__version__,
        "title": study.title,
        "question": study.question,
        "answer": study.answer,
        "notes": study.notes,
        "setting": {key: base[key] for key in base if key in stated and key not in varied},
        "axes": [
            {
                "name": axis.name,
                "labels": [value.label for value in axis.values],
                "numbers": _numbers([value.number for value in axis.values]),
            }
            for axis in axes
        ],
        "compared": study.compared_axis(),
        "seeds": list(study.seeds_listed()),
        "metrics": list(study.metrics),
        "judged": list(study.judged or study.metrics[:1]),
        "plots": [plot.model_dump(mode="json") for plot in study.plots],
        "points": [_entry(point.id, point.labels, point.config.seed) for point in points],
        "capacity": study.capacity and study.capacity.model_dump(mode="json"),
        "searches": [_entry(each.id, each.labels, each.config.seed) for each in searches],
        "experiments": [{"id": each.id, "labels": [each.name]} for each in experiments],
    }


def _entry(name: str, labels: tuple[str, ...], seed: int) -> dict[str, Any]:
    return {"id": name, "labels": list(labels), "seed": seed}


def _numbers(values: list[float | None]) -> list[float] | None:
    known = [value for value in values if value is not None]
    return known if len(known) == len(values) else None


def _run_all(stored: Sweep, tasks: dict[str, Task], jobs: int, done: Done) -> None:
    """Run until nothing is left; a worker that dies takes down only what was running."""
    from joblib.externals.loky.process_executor import BrokenProcessPool

    lost = 0
    left = {name: task for name, task in tasks.items() if not stored.has(name)}
    while left:
        done(len(tasks) - len(left), len(tasks))
        before = len(left)
        try:
            with warnings.catch_warnings(), closing(outcomes(left, jobs)) as found:
                # joblib's advice where the others are given up since one could not be stored.
                warnings.filterwarnings("ignore", message=".* tasks which were still being")
                for name, outcome in found:
                    _store(stored, name, tasks[name], outcome)
                    del left[name]
                    done(len(tasks) - len(left), len(tasks))
        except (BrokenProcessPool, MemoryError):
            lost = 0 if len(left) < before else lost + 1
            if lost == ROUNDS_WITHOUT_PROGRESS:
                raise InputError(
                    f"{stored.root}: workers keep dying ({len(left)} points left; is memory short?"
                    " fewer --jobs need less); run it again to go on"
                ) from None
        except OF_THE_MACHINE as error:
            raise InputError(
                f"{stored.root}: a worker cannot run points: {type(error).__name__}: {error};"
                " what was finished is stored"
            ) from error
        left = {name: task for name, task in left.items() if not stored.has(name)}


def outcomes(tasks: Mapping[str, Task], jobs: int) -> Generator[tuple[str, Outcome], None, None]:
    """Run tasks in parallel; name and outcome of each, in the order in which they end."""
    from joblib import Parallel, delayed

    if jobs == 0:
        raise InputError("--jobs: expected a number of processes, or -1 for one a core")
    # One at a time: with batches, finished points would wait for unfinished ones.
    parallel = Parallel(n_jobs=jobs, batch_size=1, return_as="generator_unordered")
    here = os.getpid(), code_digest()
    yield from parallel([delayed(outcome_of)(name, task, *here) for name, task in tasks.items()])


def outcome_of(name: str, task: Task, caller: int, code: str) -> tuple[str, Outcome]:
    """Run one point or search wherever this is called; what goes wrong is an outcome too.

    name: what the caller knows the task by (here its files may be others). caller: id of the
    process that waits for it. code: of the caller; raises `ImportError` where it is not that here.
    """
    from kvlab.running import run

    if code_digest() != code:
        raise ImportError("the code of kvlab is not what it was where the sweep was started")
    end_with(caller)
    try:
        if isinstance(task, Search):
            return name, search(task)
        if isinstance(task, Experiment):
            return name, task.found()
        return name, run(task.config, with_maps=False)
    except (MemoryError, *OF_THE_MACHINE):
        raise
    except Exception as error:
        line = " ".join(str(error).split())
        return name, Failure(
            line if isinstance(error, InputError) else f"{type(error).__name__}: {line}"
        )


def _store(stored: Sweep, name: str, task: Task, outcome: Outcome) -> None:
    if isinstance(outcome, RunResult):
        stored.store_run(name, outcome)
    elif isinstance(outcome, Failure):
        stored.store_failure(name, task.stated, outcome.reason)
    elif isinstance(outcome, Reproduction):
        stored.store_experiment(name, asdict(outcome))
    else:
        stored.store_search(name, outcome.as_fields())


def _workers(address: str | None) -> AbstractContextManager[Any]:
    """Where joblib's tasks run: on this machine, or on a Dask cluster."""
    if address is None:
        return nullcontext()
    try:
        distributed = import_module("distributed")
    except ImportError:
        raise InputError(
            "--dask needs the package distributed: pip install 'kvlab[dask]'"
        ) from None
    from joblib import parallel_config

    try:
        client = distributed.Client(address, timeout=DASK_TIMEOUT_S, set_as_default=False)
    except (OSError, ValueError) as error:
        raise InputError(f"--dask {address}: cannot be reached: {error}") from error
    try:
        others = set(client.run(_identity).values()) - {_identity()}
    except ImportError as error:
        raise InputError(f"--dask {address}: its workers cannot import kvlab: {error}") from error
    if others:
        raise InputError(
            f"--dask {address}: its workers have kvlab {' and '.join(sorted(others))}, expected"
            f" {_identity()}"
        )
    config: AbstractContextManager[Any] = parallel_config(backend="dask", client=client)
    return config


def _identity() -> str:
    """Version and code of kvlab: what has to be the same wherever points are run."""
    return f"{kvlab.__version__} (code {code_digest()[:8]})"
