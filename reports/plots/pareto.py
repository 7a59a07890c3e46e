"""Two metrics against each other, and the points that no other point beats in both."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from reports.metrics import Metric
from reports.plots.axes import Values
from reports.plots.curves import legend_above, set_scale, spreads_widely
from reports.plots.tidy import factor_of, label_with_unit, named, series_of, shown_metric
from reports.seeds import spread_of
from reports.style import looks_of

if TYPE_CHECKING:
    import pandas as pd

CAPTION = (
    "Every mark is a point of the sweep, the median over its seeds. The grey line joins those that "
    "no other point beats in both directions; arrows at the axes say which direction is better."
)
_FRONT = "#777777"


def front_of(x: Values, y: Values, x_higher: bool, y_higher: bool) -> list[int]:
    """Indices of the points that no other is at least as good as in both and better in one.

    In rising order of ``x``; equal points are all on the front.
    """
    a = x if x_higher else -x
    b = y if y_higher else -y
    beaten = (
        (a[None, :] >= a[:, None])
        & (b[None, :] >= b[:, None])
        & ((a[None, :] > a[:, None]) | (b[None, :] > b[:, None]))
    ).any(axis=1)
    return sorted(np.flatnonzero(~beaten).tolist(), key=lambda i: (x[i], y[i]))


def draw(frame: pd.DataFrame, x: str, y: str, by: str | None = None, seed: str = "seed") -> Figure:
    """Points of a tidy frame by two metrics, marked by the column ``by``.

    Rows that differ only in ``seed``, ``id`` and metrics are one point.
    """
    shown_x, shown_y = shown_metric(x), shown_metric(y)
    looks = looks_of(label for label, _ in series_of(frame, by))
    figure = Figure(figsize=(7, 4.0))
    axes = figure.subplots()
    found = {label: _medians(rows, x, y, seed) for label, rows in series_of(frame, by)}
    everything = np.concatenate(list(found.values()))
    values_x, values_y = everything[:, 0], everything[:, 1]
    front = everything[front_of(values_x, values_y, _is_higher(shown_x), _is_higher(shown_y))]
    axes.plot(front[:, 0], front[:, 1], color=_FRONT, linewidth=1.0, zorder=1)
    for label, points in found.items():
        look = looks[label]
        axes.plot(
            points[:, 0],
            points[:, 1],
            linestyle="none",
            marker=look.marker,
            color=look.color,
            markersize=6,
        )
    axes.set_xlabel(f"{label_with_unit(shown_x)}, {_better(shown_x)}")
    axes.set_ylabel(f"{label_with_unit(shown_y)}, {_better(shown_y)}")
    set_scale(axes, "x", "log10" if spreads_widely(list(values_x)) else "linear")
    set_scale(axes, "y", "log10" if spreads_widely(list(values_y)) else "linear")
    marks = {
        named(label, by) or "points": Line2D(
            [], [], linestyle="none", marker=looks[label].marker, color=looks[label].color
        )
        for label in found
    }
    legend_above(figure, marks | {"front": Line2D([], [], color=_FRONT, linewidth=1.0)})
    return figure


def _medians(rows: pd.DataFrame, x: str, y: str, seed: str) -> Values:
    """Median of both metrics for every point, ``(points, 2)``."""
    axes = [name for name in rows if rows[name].dtype.kind not in "fc" and name not in (seed, "id")]
    groups = [part for _, part in rows.groupby(axes, sort=False)] if axes else [rows]
    points = []
    for part in groups:
        both = [spread_of(part[name].to_list()) for name in (x, y)]
        if both[0] is not None and both[1] is not None:
            points.append(
                [
                    spread.median * factor_of(shown_metric(name))
                    for spread, name in zip((both[0], both[1]), (x, y), strict=True)
                ]
            )
    return np.array(points, float).reshape(-1, 2)


def _is_higher(shown: Metric) -> bool:
    return shown.better != "lower"


def _better(shown: Metric) -> str:
    return "more is better" if _is_higher(shown) else "less is better"
