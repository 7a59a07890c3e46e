"""Tidy frames of sweeps for figures: one row a point and seed, axes and metrics as columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from reports.metrics import METRICS, Metric, metric
from reports.plots.curves import Limit
from reports.seeds import spread_of
from sim.metrics import Objectives

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Point:
    """The seeds of one point of a sweep: where it lies on an axis, median and interval."""

    at: float
    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Places:
    """Labels of an axis and where they lie: their numbers, or 0, 1, 2 where they are words."""

    labels: tuple[str, ...]
    at: tuple[float, ...]
    are_numbers: bool

    @classmethod
    def of(cls, column: pd.Series) -> Places:
        """The labels of a column: numbers in rising order, words in the order of the frame."""
        labels = tuple(dict.fromkeys(str(label) for label in column))
        try:
            numbers = {label: float(label.replace("_", "")) for label in labels}
        except ValueError:
            return cls(labels, tuple(map(float, range(len(labels)))), False)
        rising = tuple(sorted(labels, key=lambda label: numbers[label]))
        return cls(rising, tuple(numbers[label] for label in rising), True)


def shown_metric(name: str) -> Metric:
    """The metric of a column; one without a definition is shown under its own name."""
    if name.partition(".")[0] in METRICS:
        return metric(name)
    return Metric(name, name.replace("_", " "), "", "neither", "")


def axis_name(axis: str) -> str:
    """An axis of a sweep as figures name it: without the table that its field is in."""
    return axis.rpartition(".")[2].replace("_", " ")


def factor_of(shown: Metric) -> float:
    """What stored values are multiplied with for a figure, where shares are per cents."""
    return 100.0 if shown.kind == "share" else shown.scale


def label_with_unit(shown: Metric) -> str:
    """The label of an axis."""
    return f"{shown.label} ({shown.unit})" if shown.unit else shown.label


def series_of(frame: pd.DataFrame, by: str | None) -> Iterator[tuple[str, pd.DataFrame]]:
    """The rows of each label of ``by`` in the order of the frame, or all rows as one series."""
    if by is None:
        yield "", frame
        return
    for label in dict.fromkeys(frame[by]):
        yield str(label), frame[frame[by] == label]


def named(label: str, by: str | None) -> str:
    """A label with its axis where it is a number, which says nothing alone."""
    if by is None or not label.replace(".", "").isdigit():
        return label
    return f"{axis_name(by)} {label}"


def points_of(frame: pd.DataFrame, x: str, name: str, places: Places) -> list[Point]:
    """Median and interval over the seeds at each place of ``x``; none where nothing was measured.

    What other axes vary counts as seeds would, so frames should be narrowed to one of each.
    """
    factor = factor_of(shown_metric(name))
    points = []
    for label, at in zip(places.labels, places.at, strict=True):
        values = frame.loc[frame[x].astype(str) == label, name].to_numpy(float)
        spread = spread_of(list(values * factor))
        if spread is not None:
            points.append(Point(at, spread.median, spread.low, spread.high))
    return points


def limits_of(name: str, objectives: Mapping[str, Objectives]) -> Sequence[Limit]:
    """The objectives (seconds, by service class) that a latency metric has to meet."""
    base = name.partition(".")[0]
    if base not in ("ttft_s", "tpot_s"):
        return ()
    shown = metric(base)
    return [
        Limit(
            f"objective {each}" if len(objectives) > 1 else "objective",
            getattr(wanted, base) * shown.scale,
        )
        for each, wanted in objectives.items()
        if np.isfinite(getattr(wanted, base))
    ]
