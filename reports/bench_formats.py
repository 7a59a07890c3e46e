"""Measured numbers in the two JSON formats that services for benchmark histories read.

github-action-benchmark keeps a list whose direction is said once for the whole file
(``customSmallerIsBetter`` or ``customBiggerIsBetter``), so there is one file for each; Bencher's
metric format (BMF) has no direction: there a threshold on the service says it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from workloads.errors import InputError

SLUG_LENGTH = 64
"""Longest name of a measure that Bencher takes."""


@dataclass(frozen=True)
class Measured:
    """One number of one benchmark.

    name: ``BENCHMARK/MEASURE`` (``decode/ring/seconds``: the part after the last slash is the
    measure), or just the benchmark, whose measure is then its unit. spread: half the width of an
    interval around ``value``, in ``unit``, or None where there is none. Raises `InputError` for
    numbers that JSON cannot hold.
    """

    name: str
    value: float
    unit: str
    smaller_is_better: bool
    spread: float | None = None

    def __post_init__(self) -> None:
        if not math.isfinite(self.value) or not math.isfinite(self.spread or 0.0):
            raise InputError(f"{self.name}: {self.value} +- {self.spread} is no finite number")


def github_action_json(rows: Sequence[Measured], *, smaller_is_better: bool) -> str:
    """The rows of one direction, for ``customSmallerIsBetter`` or ``customBiggerIsBetter``."""
    _refuse_twice(row.name for row in rows)
    return _text(
        [
            {"name": row.name, "unit": row.unit, "value": row.value}
            | ({} if row.spread is None else {"range": f"± {row.spread:g}"})
            for row in rows
            if row.smaller_is_better == smaller_is_better
        ]
    )


def bencher_json(rows: Sequence[Measured]) -> str:
    """All rows in Bencher's metric format: benchmark, then measure, then value and interval."""
    places = [_place_of(row) for row in rows]
    _refuse_twice("/".join(place) for place in places)
    found: dict[str, dict[str, Any]] = {}
    for row, (benchmark, measure) in zip(rows, places, strict=True):
        entry = {"value": row.value}
        if row.spread is not None:
            entry |= {"lower_value": row.value - row.spread, "upper_value": row.value + row.spread}
        found.setdefault(benchmark, {})[measure] = entry
    return _text(found)


def _place_of(row: Measured) -> tuple[str, str]:
    """Benchmark and measure of a row, the measure as a slug."""
    benchmark, slash, measure = row.name.rpartition("/")
    if not slash:
        benchmark, measure = row.name, row.unit
    slug = re.sub(r"[^a-z0-9]+", "-", measure.lower()).strip("-")[:SLUG_LENGTH].rstrip("-")
    if not benchmark or not slug:
        raise InputError(f"{row.name!r} ({row.unit}): expected BENCHMARK/MEASURE")
    return benchmark, slug


def _refuse_twice(names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise InputError(f"{name}: measured twice; expected one row a name")
        seen.add(name)


def _text(value: Any) -> str:
    return json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
