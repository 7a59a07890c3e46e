"""What changed between a baseline and now, and whether it got worse.

Simulated numbers have no noise: whole numbers (prefix hits, preemptions, copied bytes: the canary
of a change in behaviour) and all others have to be equal, unless a tolerance is stated.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

from reports.baseline import Baseline, BaselinePoint
from reports.bench_formats import Measured
from reports.metrics import METRICS, Metric, metric

Kind = Literal["worse", "better", "changed"]

CANARY = (
    "prefix_hit_tokens",
    "evictions",
    "preemptions",
    "recomputed_tokens",
    "cow_bytes",
    "swapped_bytes",
    "defrag_bytes",
    "moved_bytes",
    "shifted_bytes",
    "alloc_failures",
    "requests_failed",
)
"""Whole numbers that say by themselves that memory is managed differently; shown first."""

HISTORY = (*CANARY, "goodput_rps", "output_tokens_per_s", "ttft_s.p99", "tpot_s.mean", "e2e_s.p95")
"""Metrics that are written for services that keep histories."""


NAMED = 3
"""Metrics of a point that the headline names."""


@dataclass(frozen=True)
class Change:
    """A metric of a point that is not what it was.

    before, after: medians over the seeds, None where there is no value. changed, seeds: how many
    of how many seeds. exact: whether equality was asked for. note: said instead of the values.
    """

    point: str
    metric: str
    before: float | None
    after: float | None
    kind: Kind
    changed: int
    seeds: int
    note: str = ""

    @property
    def relative(self) -> float | None:
        """Change as a share of what it was; None where that is nothing or zero."""
        if self.before is None or self.after is None or self.before == 0:
            return None
        return self.after / self.before - 1


@dataclass(frozen=True)
class Verdict:
    """compared: numbers that were compared. points: names of all points, in order."""

    title: str
    changes: tuple[Change, ...]
    compared: int
    points: tuple[str, ...]
    versions: tuple[str, str]

    @property
    def passes(self) -> bool:
        """Whether everything is as it was."""
        return not self.changes

    @property
    def is_worse(self) -> bool:
        """Whether anything got worse, or differs where neither direction is better."""
        return any(change.kind != "better" for change in self.changes)

    @property
    def headline(self) -> str:
        """One line that names what got worse."""
        if self.passes:
            return f"{self.title}: all {self.compared:,} numbers are as in the baseline."
        parts = []
        for kind in ("worse", "changed", "better"):
            named: dict[str, list[str]] = {}
            for change in self.changes:
                if change.kind == kind:
                    named.setdefault(change.point, []).append(_label_of(change))
            if named:
                points = [f"{point} ({_first_of(labels)})" for point, labels in named.items()]
                parts.append(f"{kind}: {'; '.join(points)}")
        return f"{self.title}: {len(self.changes)} changes. {'. '.join(parts)}."


def compare(baseline: Baseline, now: Sequence[BaselinePoint], version: str) -> Verdict:
    """Compare points run now with those of the baseline, in the same order."""
    groups: dict[str, list[tuple[BaselinePoint, BaselinePoint]]] = {}
    for before, after in zip(baseline.points, now, strict=True):
        groups.setdefault(before.name, []).append((before, after))
    changes = [
        change
        for name, pairs in groups.items()
        for change in _changes_of(name, pairs, baseline.tolerances)
    ]
    compared = sum(max(len(point.metrics), 1) for point in baseline.points)
    versions = (baseline.kvlab, version)
    return Verdict(baseline.title or "Baseline", tuple(changes), compared, tuple(groups), versions)


def _changes_of(
    name: str, pairs: Sequence[tuple[BaselinePoint, BaselinePoint]], tolerances: dict[str, float]
) -> Iterable[Change]:
    failures = [(b, a) for b, a in pairs if b.failure != a.failure]
    if failures:
        before, after = failures[0]
        kind: Kind = "better" if after.failure is None else "worse"
        note = f"{before.failure or 'ran'} -> {after.failure or 'runs'}"
        yield Change(name, "failure", None, None, kind, len(failures), len(pairs), note)
    both = [(b.metrics, a.metrics) for b, a in pairs if b.failure is None and a.failure is None]
    for key in _in_order(dict.fromkeys(key for before, _ in both for key in before)):
        values = [(before.get(key), after.get(key)) for before, after in both]
        changed = [pair for pair in values if _differ(*pair, tolerances.get(key, 0.0))]
        if changed:
            was, is_now = (_median(part) for part in zip(*values, strict=True))
            kind = _kind(key, changed)
            yield Change(name, key, was, is_now, kind, len(changed), len(pairs))


def _in_order(names: Iterable[str]) -> list[str]:
    """The canary first, then as pages show metrics."""
    order = [*CANARY, *METRICS]

    def place(name: str) -> int:
        base = name.partition(".")[0]
        return order.index(base) if base in order else len(order)

    return sorted(names, key=place)


def _differ(before: float | None, after: float | None, tolerance: float) -> bool:
    if before is None or after is None:
        return before is not after
    return abs(after - before) > tolerance * abs(before)


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(median(known)) if known else None


def _kind(name: str, pairs: Sequence[tuple[float | None, float | None]]) -> Kind:
    """Worse if it is worse in any seed."""
    better = _metric_of(name).better
    known = [(a, b) for a, b in pairs if a is not None and b is not None]
    if better == "neither" or len(known) < len(pairs):
        return "changed"
    rises = [b > a for a, b in known]
    return "better" if all(rise == (better == "higher") for rise in rises) else "worse"


def shown(change: Change) -> tuple[str, str, str, str]:
    """Label of the metric, before, after, and by how much, as tables show them."""
    if change.note:
        return change.metric, "", change.note, ""
    as_metric = _metric_of(change.metric)
    before, after = as_metric.text(change.before), as_metric.text(change.after)
    if before == after and change.before is not None and change.after is not None:
        factor = 100.0 if as_metric.kind == "share" else as_metric.scale
        before, after = _apart(factor * change.before, factor * change.after)
    label = f"{as_metric.label} ({as_metric.unit})" if as_metric.unit else as_metric.label
    return label, before, after, _by(change)


def _apart(one: float, other: float) -> tuple[str, str]:
    """Both with as many digits as it takes to tell them apart."""
    texts = [(f"{one:.{digits}g}", f"{other:.{digits}g}") for digits in range(4, 18)]
    return next((pair for pair in texts if pair[0] != pair[1]), texts[-1])


def _label_of(change: Change) -> str:
    return change.metric if change.note else _metric_of(change.metric).label


def _first_of(labels: Sequence[str]) -> str:
    """The first few: those of the canary, if any of it has changed."""
    more = len(labels) - NAMED
    return ", ".join(labels[:NAMED]) + (f" and {more} more" if more > 0 else "")


def _metric_of(name: str) -> Metric:
    """The metric, also where it has no definition of its own."""
    if name.partition(".")[0] in METRICS:
        return metric(name)
    return Metric(name, name, "", "neither", "")


def _by(change: Change) -> str:
    if change.relative is None:
        return "new" if change.before == 0 and change.after else ""
    if change.relative == 0:
        return "median alike"
    percent = 100 * change.relative
    return f"{percent:+.1f} %" if abs(percent) >= 0.05 else f"{percent:+.1e} %"


def measured_rows(points: Sequence[BaselinePoint], names: Sequence[str]) -> list[Measured]:
    """Medians over the seeds of the named metrics, for the services that keep histories."""
    groups: dict[str, list[BaselinePoint]] = {}
    for point in points:
        groups.setdefault(point.name, []).append(point)
    rows = []
    for name, members in groups.items():
        for key in names:
            known = [v for p in members if (v := p.metrics.get(key)) is not None]
            found = metric(key)
            if known:
                factor = 100.0 if found.kind == "share" else found.scale
                spread = factor * (max(known) - min(known)) / 2 if len(known) > 1 else None
                value, is_less_better = factor * float(median(known)), found.better == "lower"
                rows.append(Measured(f"{name}/{key}", value, found.unit, is_less_better, spread))
    return rows
