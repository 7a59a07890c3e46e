"""A metric of things that are no numbers: a dot with its interval for each label of an axis."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from reports.plots.curves import legend_above, set_scale
from reports.plots.tidy import Places, label_with_unit, named, points_of, series_of, shown_metric
from reports.style import Look, label_of, looks_of

if TYPE_CHECKING:
    import pandas as pd

CAPTION = (
    "Medians over the seeds; the line through a dot goes from a low to a high value of the seeds."
)
_ROW_INCHES = 0.3
_SPREAD = 0.44
"""Share of a row over which the dots of several series are spread."""


def draw(
    frame: pd.DataFrame, x: str, name: str, by: str | None = None, *, log: bool = False
) -> Figure:
    """A row for each label of the column ``x``, in it a dot of ``name`` for each label of ``by``.

    frame: tidy, one row a point and seed. log: whether the values are on a logarithmic axis.
    """
    shown, places = shown_metric(name), Places.of(frame[x])
    rows = list(range(len(places.labels)))
    series = list(series_of(frame, by))
    looks = looks_of(label for label, _ in series)
    figure = Figure(figsize=(7, 1.0 + _ROW_INCHES * len(rows) * max(1.0, 0.6 * len(series))))
    axes = figure.subplots()
    for (label, part), shift in zip(series, _shifts(len(series)), strict=True):
        look = looks[label]
        row_of = dict(zip(places.at, rows, strict=True))
        for point in points_of(part, x, name, places):
            row = row_of[point.at] + shift
            axes.plot([point.low, point.high], [row, row], color=look.color, linewidth=1.5)
            axes.plot([point.median], [row], color=look.color, marker=look.marker, markersize=6)
    axes.set_yticks(rows, [label_of(label, 48) for label in places.labels])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel(label_with_unit(shown))
    set_scale(axes, "x", "log10" if log else "linear")
    if not log:
        axes.set_xlim(left=min(0.0, axes.get_xlim()[0]))
    if by is not None:
        legend_above(figure, {named(label, by): _handle(looks[label]) for label, _ in series})
    return figure


def _shifts(count: int) -> Iterator[float]:
    yield from ([0.0] if count == 1 else np.linspace(-_SPREAD / 2, _SPREAD / 2, count).tolist())


def _handle(look: Look) -> Line2D:
    return Line2D([], [], color=look.color, marker=look.marker, markersize=6, linewidth=1.5)
