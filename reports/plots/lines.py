"""A metric over an axis of a sweep, a line for each label of another: rate against latency, say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from reports.plots.curves import Curve, Limit, Scale, figure_of_curves, spreads_widely
from reports.plots.tidy import (
    Places,
    axis_name,
    label_with_unit,
    named,
    points_of,
    series_of,
    shown_metric,
)
from reports.style import looks_of

if TYPE_CHECKING:
    import pandas as pd

CAPTION = (
    "Medians over the seeds; the band around a line goes from a low to a high value of the seeds. "
    "Dotted lines are objectives."
)


def draw(
    frame: pd.DataFrame,
    x: str,
    name: str,
    by: str | None = None,
    *,
    limits: Sequence[Limit] = (),
    log_x: bool = False,
) -> Figure:
    """A line of ``name`` over the column ``x`` for each label of ``by``.

    frame: tidy, one row a point and seed. limits: horizontal lines in the metric's shown unit
    (`reports.plots.tidy.limits_of`). The y axis is logarithmic where values spread widely.
    """
    shown, places = shown_metric(name), Places.of(frame[x])
    looks = looks_of(label for label, _ in series_of(frame, by))
    curves = []
    for label, rows in series_of(frame, by):
        points = points_of(rows, x, name, places)
        curves.append(
            Curve(
                named(label, by) or shown.label,
                [point.at for point in points],
                [point.median for point in points],
                looks[label],
                [point.low for point in points],
                [point.high for point in points],
            )
        )
    heights = [value for curve in curves for value in curve.y]
    is_log = spreads_widely([*heights, *(limit.at for limit in limits)])
    few = not places.are_numbers or len(places.labels) <= 12
    along = Scale(
        axis_name(x),
        "log2" if log_x and places.are_numbers else "linear",
        places.at if few else (),
        places.labels if few else (),
    )
    upwards = Scale(label_with_unit(shown), "log10" if is_log else "linear")
    return figure_of_curves(curves, along, upwards, limits)
