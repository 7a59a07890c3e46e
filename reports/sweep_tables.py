"""The tables of a sweep: a row for each combination of labels, a column for each metric.

Within a group (rows that differ only in the compared axis) the best median of a metric is marked,
and with it all that the seeds cannot tell from it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reports.metrics import NO_VALUE, Metric, metric
from reports.seeds import INTERVAL, Spread, difference_between, spread_of
from reports.sweep import Sweep
from reports.verdict import NEGLIGIBLE

if TYPE_CHECKING:
    import pandas as pd

Labels = tuple[str, ...]

MARKED = (
    "Marked are the best median of each group of rows (they differ in one column only, "
    "{compared}) and all that the seeds cannot tell from it at the 5 % level, each pair by itself, "
    f"or that differ by less than {100 * NEGLIGIBLE:g} %."
)
FEWEST_SEEDS = 6
"""With fewer, no sign-flip test reaches the 5 % level."""
TOO_FEW = (
    "With {seeds} seeds no difference can be supported: p would be {p:.2g} at least. Six can do it."
)
LOSSY = "‡ lossy ({lost}): it does less than the model asks for, which these numbers do not show."
ONE_RUN = "Where nothing is drawn (a trace) there is one run a row, and no interval."


@dataclass(frozen=True)
class Cell:
    """One value as shown, and whether it is among the best of its group."""

    text: str
    spread: Spread | None
    best: bool


@dataclass(frozen=True)
class Row:
    """labels: where it lies, one an axis, the last with ‡ where its policy is lossy.

    cells: one a metric. failed: seeds that failed.
    """

    labels: Labels
    cells: tuple[Cell, ...]
    failed: int


@dataclass(frozen=True)
class SweepTable:
    """axes: names of the first columns, the compared one last. metrics: of the others."""

    axes: tuple[str, ...]
    metrics: tuple[Metric, ...]
    rows: tuple[Row, ...]


def table_of(sweep: Sweep) -> SweepTable:
    """The table of a sweep, rows of a group together, in the order of the study."""
    shown = tuple(metric(name) for name in sweep.index["metrics"])
    groups = _groups_of(sweep)
    values = _values_of(sweep, [each.name for each in shown])
    failed, lossy = _failed_of(sweep), _lossy_of(sweep)
    rows = []
    for members in groups:
        known = [values.get(labels, {}) for labels in members]
        columns = [_column(each, [member.get(each.name, []) for member in known]) for each in shown]
        for labels, cells in zip(members, zip(*columns, strict=True), strict=True):
            names = _shown(sweep, labels)
            if labels in lossy:
                names = (*names[:-1], f"{names[-1]} ‡")
            rows.append(Row(names, cells, failed.get(labels, 0)))
    return SweepTable(_shown(sweep, tuple(sweep.axes)), shown, tuple(rows))


def _place(sweep: Sweep) -> int:
    return sweep.axes.index(sweep.index["compared"])


def _shown(sweep: Sweep, labels: Labels) -> Labels:
    """The compared axis last; those with one label say nothing and are left out."""
    at = _place(sweep)
    others = [
        label
        for label, axis in zip(labels, sweep.axes, strict=True)
        if axis != sweep.index["compared"] and len(sweep.labels(axis)) > 1
    ]
    return (*others, labels[at])


def _groups_of(sweep: Sweep) -> list[list[Labels]]:
    """Combinations that differ in the compared axis only, each group in the study's order."""
    at, groups = _place(sweep), dict[Labels, list[Labels]]()
    for point in sweep.index["points"]:
        labels = tuple(point["labels"])
        group = groups.setdefault((*labels[:at], *labels[at + 1 :]), [])
        if labels not in group:
            group.append(labels)
    return list(groups.values())


def _values_of(sweep: Sweep, names: Sequence[str]) -> dict[Labels, dict[str, list[float]]]:
    """Values by labels and metric, one a seed in the order of the seeds, NaN where it failed."""
    frame: pd.DataFrame = sweep.frame().set_index([*sweep.axes, "seed"])
    seeds: dict[Labels, list[int]] = {}
    for point in sweep.index["points"]:
        seeds.setdefault(tuple(point["labels"]), []).append(point["seed"])
    found: dict[Labels, dict[str, list[float]]] = {}
    for labels, drawn in seeds.items():
        rows = frame.reindex([(*labels, seed) for seed in drawn])
        found[labels] = {name: rows[name].tolist() for name in names}
    return found


def _lossy_of(sweep: Sweep) -> dict[Labels, str]:
    """What is lost, by the labels of points whose policy is lossy."""
    frame = sweep.frame()
    rows = frame[frame["lossy"] != ""]
    places = rows[sweep.axes].itertuples(index=False, name=None)
    return dict(zip(places, rows["lossy"], strict=True))


def _failed_of(sweep: Sweep) -> dict[Labels, int]:
    counts: dict[Labels, int] = {}
    for point in sweep.index["points"]:
        if sweep.failure_of(point) is not None:
            labels = tuple(point["labels"])
            counts[labels] = counts.get(labels, 0) + 1
    return counts


def _column(shown: Metric, values: Sequence[Sequence[float]]) -> list[Cell]:
    """One metric over a group."""
    spreads = [spread_of(each) for each in values]
    best = best_of(shown, values)
    return [
        Cell(text_of(shown, spread), spread, place in best) for place, spread in enumerate(spreads)
    ]


def best_of(shown: Metric, values: Sequence[Sequence[float]]) -> set[int]:
    """The places of the best median and of all that seeds cannot tell from it; none if all are."""
    medians = {
        place: found.median for place, each in enumerate(values) if (found := spread_of(each))
    }
    if shown.better == "neither" or len(medians) < 2:
        return set()
    leader = (max if shown.better == "higher" else min)(medians, key=lambda at: medians[at])
    best = {at for at in medians if at == leader or not differs(shown, values[at], values[leader])}
    return set() if len(best) == len(medians) else best


def differs(shown: Metric, one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether seeds support a difference; single runs differ where their shown values do.

    Differences below `NEGLIGIBLE` do not count, however steady they are.
    """
    found = difference_between(one, other)
    if found is None or abs(found.ratio - 1) < NEGLIGIBLE:
        return False
    if found.p is None:
        first, second = spread_of(one), spread_of(other)
        return text_of(shown, first) != text_of(shown, second)
    return found.is_supported


def text_of(shown: Metric, spread: Spread | None) -> str:
    """Median and interval as shown; the median alone where both ends look like it."""
    if spread is None:
        return NO_VALUE
    median, low, high = (shown.text(each) for each in (spread.median, spread.low, spread.high))
    return median if median == low == high else f"{median} [{low}, {high}]"


def differences_of(sweep: Sweep) -> Iterator[str]:
    """For each group a sentence on each judged metric: what seeds support, and what not."""
    judged = [metric(name) for name in sweep.index["judged"]]
    judged = [each for each in judged if each.better != "neither"]
    at = _place(sweep)
    values = _values_of(sweep, [each.name for each in judged])
    for members in _groups_of(sweep):
        place = ", ".join(
            f"{axis} {label}"
            for axis, label in zip(sweep.axes, members[0], strict=True)
            if axis != sweep.index["compared"] and len(sweep.labels(axis)) > 1
        )
        for each in judged:
            series = {_named(labels[at]): values[labels][each.name] for labels in members}
            sentence = _sentence(each, series)
            if sentence:
                yield f"{place}: {sentence}" if place else sentence


def _named(label: str) -> str:
    """The label within a sentence, where commas part labels."""
    return f"'{label}'" if "," in label else label


def _sentence(shown: Metric, series: dict[str, list[float]]) -> str | None:
    names = list(series)
    best = best_of(shown, list(series.values()))
    known = [name for name in names if spread_of(series[name])]
    if len(known) < 2:
        return None
    if not best:
        return f"{shown.label}: no difference between {', '.join(known)} is supported."
    medians = {name: spread_of(series[name]) for name in known}
    sign = -1 if shown.better == "higher" else 1
    order = sorted(known, key=lambda name: sign * (medians[name] or _NONE).median)
    leader, tied = order[0], [n for n in order[1:] if names.index(n) in best]
    parts = [
        f"{name} {_ratio(shown, series[name], series[leader])}"
        for name in order[1:]
        if name not in tied
    ]
    also = f" (not told from it: {', '.join(tied)})" if tied else ""
    value = shown.text_with_unit((medians[leader] or _NONE).median)
    return f"{shown.label}: best is {leader} with {value}{also}; {', '.join(parts)}."


_NONE = Spread(float("nan"), 0.0, 0.0, 0, 0.0)


def _ratio(shown: Metric, one: Sequence[float], other: Sequence[float]) -> str:
    """How much a value is of the leader's, with p where seeds gave one."""
    found = difference_between(one, other)
    if found is None:
        return "has none"
    p = "" if found.p is None else f", p {found.p:.2g}"
    if found.ratio != found.ratio:
        spread = spread_of(one)
        return f"{shown.text_with_unit(spread.median if spread else None)}{p}"
    if found.ratio >= 2:
        return f"{found.ratio:.1f} times as much{p}"
    return f"{100 * (found.ratio - 1):+.1f} %{p}"


def notes_of(sweep: Sweep) -> list[str]:
    """How the table is to be read."""
    lines = [INTERVAL, MARKED.format(compared=sweep.index["compared"])]
    counts: dict[Labels, int] = {}
    for point in sweep.index["points"]:
        labels = tuple(point["labels"])
        counts[labels] = counts.get(labels, 0) + 1
    if 1 in counts.values() and len(sweep.index["seeds"]) > 1:
        lines.append(ONE_RUN)
    seeds = max(counts.values(), default=0)
    if 1 < seeds < FEWEST_SEEDS:
        lines.append(TOO_FEW.format(seeds=seeds, p=2.0 ** (1 - seeds)))
    lost = sorted(set(_lossy_of(sweep).values()))
    if lost:
        lines.append(LOSSY.format(lost="; ".join(lost)))
    missing = sweep.missing()
    if missing:
        lines.append(f"{missing} points are still to come: the sweep was cut off.")
    return lines


def failures_of(sweep: Sweep) -> list[str]:
    """Every reason why points failed, and which."""
    found: dict[str, list[str]] = {}
    for entry in sweep.entries():
        reason = sweep.failure_of(entry)
        if reason is not None:
            place = ", ".join(entry["labels"])
            found.setdefault(reason, [])
            if place not in found[reason]:
                found[reason].append(place)
    return [f"{reason} ({'; '.join(places)})" for reason, places in found.items()]
