"""Runs the points of a baseline: once to save them, later to see whether anything changed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import kvlab
from kvlab.config import RunConfig
from kvlab.study.points import Point, files_of, points_of
from kvlab.study.schema import Study
from kvlab.study.sweeping import OF_THE_MACHINE, Failure, outcomes
from reports.baseline import Baseline, BaselinePoint, metrics_of, refuse_incomparable
from reports.gate import Verdict, compare
from reports.results import RunResult
from workloads.errors import InputError


def baseline_of(study: Study, *, jobs: int = -1) -> Baseline:
    """Run every point of a study and keep its numbers. Raises `InputError`."""
    points = points_of(study)
    axes = tuple(axis.name for axis in study.axes())
    measured = tuple(_measured(points, jobs))
    if all(point.failure is not None for point in measured):
        raise InputError(f"no point could be run: {measured[0].failure}")
    return Baseline(study.title, kvlab.__version__, axes, dict(study.tolerances), measured)


def check(path: Path, *, jobs: int = -1) -> tuple[Verdict, list[BaselinePoint]]:
    """Run every point of a stored baseline again; what changed, and the points as they are now.

    Raises `InputError` for what is no baseline, and for what cannot be compared: configurations
    that this version does not know any more, and files that have changed.
    """
    baseline = Baseline.load(path)
    refuse_incomparable(path, baseline.points, [files_of(each.config) for each in baseline.points])
    points = [
        Point(each.labels, RunConfig.of(each.config, f"{path}: {each.name}: cannot be compared: "))
        for each in baseline.points
    ]
    now = _measured(points, jobs)
    return compare(baseline, now, kvlab.__version__), now


def _measured(points: Sequence[Point], jobs: int) -> list[BaselinePoint]:
    from joblib.externals.loky.process_executor import BrokenProcessPool

    names = [point.id for point in points]
    try:
        found = dict(outcomes(dict(zip(names, points, strict=True)), jobs))
    except (BrokenProcessPool, MemoryError, *OF_THE_MACHINE) as error:
        line = " ".join(str(error).split())
        raise InputError(f"a run was cut off: {type(error).__name__}: {line}") from error
    measured = []
    for name, point in zip(names, points, strict=True):
        outcome = found[name]
        config = point.config.model_dump(mode="json", exclude_none=True)
        measured.append(
            BaselinePoint(
                point.labels,
                point.config.seed,
                config,
                files_of(config),
                metrics_of(outcome.summary) if isinstance(outcome, RunResult) else {},
                outcome.reason if isinstance(outcome, Failure) else None,
            )
        )
    return measured
