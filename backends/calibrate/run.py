"""Measures all points of a plan, fits them, and writes the calibration file."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from backends.calibrate.benches import Benches, common_shape_of
from backends.calibrate.fit import fitted
from backends.calibrate.journal import Journal, write_whole
from backends.calibrate.plan import EXTENTS, matrices_of, points_of
from backends.calibrate.point import Sample
from backends.calibrate.prefill import AUTO, fused_prefill
from backends.calibrate.timing import QUICK, Effort, timed
from backends.choice import backend_of
from sim.model import ModelSpec
from sim.timing import terms
from sim.timing.fitted import Fitted
from workloads.errors import InputError

SCHEMA = 1
HELD_OUT = 0.2
"""Share of each kernel's points that are not fitted but predicted."""


@dataclass(frozen=True)
class Request:
    """What is to be calibrated.

    date: of the measurement, as the caller says it (ISO 8601). prefill: its implementation, see
    `backends.calibrate.prefill`.
    """

    model: ModelSpec
    backend: str = "numpy"
    kv_types: tuple[str, ...] = ("f16",)
    quick: bool = False
    date: str = ""
    prefill: str = AUTO


def calibrate(
    request: Request, out: Path, progress: Callable[[int, int, str], None] | None = None
) -> dict[str, Any]:
    """Measure, fit and write ``out``; the same as a dictionary.

    Goes on with ``out``'s journal where an earlier run was interrupted. progress: called with the
    points done, all points, and the next one. Raises `InputError` for a backend that is not there,
    a model that cannot be measured, or a file that cannot be written.
    """
    backend = backend_of(request.backend)
    extent = EXTENTS.get((request.backend, request.quick))
    if extent is None:
        raise InputError(f"backend {request.backend!r} has no times; expected numpy or cupy")
    if not out.parent.is_dir():
        raise InputError(f"{out}: no such folder: {out.parent}")
    shape = common_shape_of(request.model)
    fused, prefill = fused_prefill(backend, request.prefill, shape, request.kv_types)
    benches = Benches(backend, request.model, extent, fused)
    points = points_of(request.model, request.kv_types, extent)
    header = {
        "schema": SCHEMA,
        "model": request.model.name,
        "backend": request.backend,
        "device": backend.device_name(),
        "kv_types": list(request.kv_types),
        "quick": request.quick,
        "prefill": prefill,
        "element_bytes": benches.element_bytes,
        "versions": backend.versions(),
    }
    journal = Journal(out.with_name(out.name + ".journal"), header)
    effort = QUICK if request.quick else Effort()
    for done, point in enumerate(points):
        if progress is not None:
            progress(done, len(points), point.key)
        if point.key not in journal.samples:
            works, found = benches.of(point)
            journal.add(Sample(point, found, *timed(backend, works, effort)))
    samples = [journal.samples[point.key] for point in points]
    made = header | {"date": request.date, "clocks": backend.clocks()} | summary_of(samples)
    made["matrices"] = [list(shape) for shape in matrices_of(request.model)]
    write_whole(out, json.dumps(made, indent=1, allow_nan=False) + "\n")
    journal.close()
    return made


def summary_of(samples: Sequence[Sample]) -> dict[str, Any]:
    """Fitted models by kernel with the errors of what was held out, and all points with both."""
    by_kernel: dict[str, list[Sample]] = {}
    for sample in samples:
        by_kernel.setdefault(sample.point.kernel, []).append(sample)
    held = {each.point.key for group in by_kernel.values() for each in _held_out(group)}
    models = {
        kernel: fitted(kernel, [each for each in group if each.point.key not in held])
        for kernel, group in by_kernel.items()
        if not kernel.startswith(terms.MIXED)
    }
    rows, error_of = [], {}
    for kernel, group in by_kernel.items():
        predicted = {each.point.key: _predicted(models, each) for each in group}
        judged = [each for each in group if each.point.key in held or kernel not in models]
        error_of[kernel] = _errors_of(judged, predicted)
        for each in group:
            row = each.to_json()
            row["predicted"] = predicted[each.point.key]
            row["held_out"] = each.point.key in held
            rows.append(row)
    return {
        "models": {kernel: model.to_json() for kernel, model in models.items()},
        "errors": error_of,
        "points": rows,
    }


def _held_out(group: Sequence[Sample]) -> list[Sample]:
    """A fixed random choice among all but the extremes, which the fit needs."""
    if len(group) < 5:
        return []
    ordered = sorted(group, key=lambda each: (each.seconds, each.point.key))
    inner = ordered[1:-1]
    n = max(1, round(HELD_OUT * len(group)))
    chosen = np.random.default_rng(len(group)).permutation(len(inner))[:n]
    return [inner[i] for i in chosen.tolist()]


def _predicted(models: dict[str, Fitted], sample: Sample) -> float:
    kernel, _, kind = sample.point.kernel.partition(" ")
    if kernel != terms.MIXED:
        return float(models[sample.point.kernel].seconds(sample.terms))
    parts = sample.terms
    return sum(float(models[f"{part} {kind}"].seconds(parts[part])) for part in parts)


def _errors_of(samples: Sequence[Sample], predicted: dict[str, float]) -> dict[str, float | int]:
    if not samples:
        return {"points": 0}
    sizes = np.abs([predicted[each.point.key] / each.seconds - 1 for each in samples])
    return {
        "points": len(samples),
        "median": float(np.median(sizes)),
        "p95": float(np.percentile(sizes, 95)),
        "worst": float(sizes.max()),
    }
