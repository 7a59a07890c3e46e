"""Runs cases and turns what they took into numbers with a name."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict
from statistics import median
from typing import Any

from kvlab.benchmark.cases import GROWTH, Case
from reports.bench_formats import Measured
from workloads.errors import InputError

Found = dict[str, Any]


def run_all(
    cases: Iterable[Case], repeats: int, done: Callable[[int, int], None] = lambda *_: None
) -> dict[str, list[Found]]:
    """What each case took, ``repeats`` times; the cases in turns, so that noise hits all alike.

    ``done`` is told how many processes of how many are over. Raises `InputError` for a case that
    cannot be run.
    """
    listed = list(cases)
    found: dict[str, list[Found]] = {case.name: [] for case in listed}
    for count, case in enumerate(listed * repeats, start=1):
        found[case.name].append(_run(case))
        done(count, len(listed) * repeats)
    return found


def _run(case: Case) -> Found:
    command = [sys.executable, "-m", "kvlab.benchmark.worker"]
    ended = subprocess.run(
        command, input=json.dumps(asdict(case)), capture_output=True, text=True, check=False
    )
    if ended.returncode:
        lines = ended.stderr.strip().splitlines() or ["no reason given"]
        raise InputError(f"{case.name}: {lines[-1]}")
    found: Found = json.loads(ended.stdout)
    return found


def rows_of(found: dict[str, list[Found]]) -> list[Measured]:
    """The numbers: medians over the repeats, with half the distance from least to most."""
    rows: list[Measured] = []
    for name, repeats in found.items():
        kind = name.partition("/")[0]
        if kind == "churn":
            rows.append(_rate(name, repeats, "operations"))
        elif kind == "run":
            rows += [_rate(name, repeats, what) for what in ("requests", "output_tokens", "events")]
            rows.append(_measured(f"{name}/cpu", [each["cpu_s"] for each in repeats], "s", True))
            peaks = [each["peak_bytes"] / 2**20 for each in repeats]
            rows.append(_measured(f"{name}/peak_memory", peaks, "MiB", True))
    return rows + _leaps(found) + _growth(found)


def _rate(name: str, repeats: list[Found], what: str) -> Measured:
    rates = [each[what] / each["cpu_s"] for each in repeats]
    return _measured(f"{name}/{what}", rates, f"{what.replace('_', ' ')} / CPU s", False)


def _leaps(found: dict[str, list[Found]]) -> list[Measured]:
    """How much longer single steps take than runs of steps."""
    rows = []
    for name, repeats in found.items():
        stem, slash, last = name.rpartition("/")
        if name.startswith("leap/") and last == "leaps":
            single = found[f"{stem}{slash}steps"]
            ratios = [b["cpu_s"] / a["cpu_s"] for a, b in zip(repeats, single, strict=True)]
            rows.append(_measured(f"{stem}/speedup", ratios, "x", False))
    return rows


def _growth(found: dict[str, list[Found]]) -> list[Measured]:
    """How often the CPU time of the smallest run the larger ones take."""
    rows = []
    for name, repeats in found.items():
        stem, slash, last = name.rpartition("/")
        if name.startswith("growth/") and last != f"{GROWTH[0]}x":
            least = found[f"{stem}{slash}{GROWTH[0]}x"]
            ratios = [b["cpu_s"] / a["cpu_s"] for a, b in zip(least, repeats, strict=True)]
            rows.append(_measured(name, ratios, "x", True))
    return rows


def _measured(name: str, values: list[float], unit: str, smaller_is_better: bool) -> Measured:
    spread = (max(values) - min(values)) / 2 if len(values) > 1 else None
    return Measured(name, median(values), unit, smaller_is_better, spread)
