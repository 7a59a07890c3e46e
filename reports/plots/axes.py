"""What several figures need: a common time axis, step-wise samples, one legend for all panels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from reports.results import RunResult
from reports.style import Look, label_of

Values = NDArray[np.float64]

OVER = "#EDEDED"
"""Of the time after the end of a run."""

_INTERVALS = 80
_LINE_CHARACTERS = 115
_FAR = 5


@dataclass(frozen=True)
class TimeAxis:
    """A time axis for all panels of a figure.

    end: last second that is drawn. scale, unit: seconds are divided by ``scale`` to be shown in
    ``unit``. beyond: runs that go on after ``end``, with the second at which each ends.
    """

    end: float
    scale: float
    unit: str
    beyond: dict[str, float]

    @property
    def label(self) -> str:
        """Label of the axis."""
        return f"time ({self.unit})"

    def fit(self, *panels: Axes) -> None:
        """Set the limits of the panels."""
        for axes in panels:
            axes.set_xlim(0, self.end / self.scale)

    def note(self, name: str) -> str:
        """Words for a run that goes on beyond the axis, else nothing."""
        if name not in self.beyond:
            return ""
        return f" (goes on to {self.beyond[name] / self.scale:,.0f} {self.unit})"


def end_of(run: RunResult) -> float:
    """The second at which a run ends."""
    last = run.timeline["time_s"].iloc[-1] if len(run.timeline) else 0.0
    return max(float(last), float(run.summary["makespan_s"] or 0.0))


def time_axis_of(runs: Mapping[str, RunResult]) -> TimeAxis:
    """An axis that ends with the longest run, unless that is far longer than most.

    One policy that needs five times as long as the middle one would squeeze all others into a
    corner; it is cut off, and the figure says so.
    """
    ends = {name: end_of(run) for name, run in runs.items()}
    end = largest_shown(list(ends.values())) or 1.0
    scale, unit = (3600.0, "h") if end >= 4 * 3600 else (60.0, "min") if end >= 1200 else (1.0, "s")
    return TimeAxis(end, scale, unit, {n: value for n, value in ends.items() if value > end})


def largest_shown(values: Sequence[float]) -> float:
    """The largest value that an axis has to reach: those far beyond the middle one are cut off."""
    middle = sorted(values)[(len(values) - 1) // 2]
    return max(value for value in values if value <= _FAR * middle)


def mark_cut(axes: Axes, y: float, text: str) -> None:
    """Words at the right end of a bar at ``y`` that goes on beyond the axis."""
    axes.annotate(
        text,
        (1, y),
        xycoords=("axes fraction", "data"),
        xytext=(-6, 0),
        textcoords="offset points",
        ha="right",
        va="center",
        fontsize=7,
        bbox={"boxstyle": "rarrow,pad=0.2", "facecolor": "white", "linewidth": 0.5},
    )


def shade_over(axes: Axes, run: RunResult, axis: TimeAxis) -> None:
    """Shade the time after the end of a run."""
    if end_of(run) < axis.end:
        axes.axvspan(end_of(run) / axis.scale, axis.end / axis.scale, color=OVER, linewidth=0)


def interval_means(run: RunResult, axis: TimeAxis, values: Values) -> tuple[Values, Values]:
    """Edges of short equal intervals within the run, and the mean over time in each.

    ``values`` is one number a sample, or rows of them; a sample holds until the next one, the
    last until the run ends. What adds up in the samples adds up in the means. A run without any
    length has no interval.
    """
    if run.timeline.empty:
        return np.zeros(1), values
    times = np.append(run.timeline["time_s"].to_numpy(float), end_of(run))
    edges = _edges(times[0], min(times[-1], axis.end), axis)
    integral = np.cumsum(values * np.diff(times), axis=-1)
    integral = np.concatenate([np.zeros_like(integral[..., :1]), integral], axis=-1)
    at_edges = np.apply_along_axis(lambda row: np.interp(edges, times, row), -1, integral)
    return edges, np.diff(at_edges, axis=-1) / np.diff(edges)


def interval_rates(run: RunResult, axis: TimeAxis, counter: Values) -> tuple[Values, Values]:
    """Edges of short equal intervals within the run, and the growth per second in each.

    ``counter`` counts from 0 at the start of the run.
    """
    times = np.append(0.0, run.timeline["time_s"].to_numpy(float))
    edges = _edges(0.0, min(times[-1], axis.end), axis)
    at_edges = np.interp(edges, times, np.append(0.0, counter))
    return edges, np.diff(at_edges) / np.diff(edges)


def _edges(start: float, end: float, axis: TimeAxis) -> Values:
    if end <= start:
        return np.zeros(1)
    count = max(1, round(_INTERVALS * (end - start) / axis.end))
    return np.linspace(start, end, count + 1)


def panels(figure: Figure, count: int, xlabel: str) -> list[Axes]:
    """``count`` axes, two a row, with common axes, in reading order.

    Those with nothing below them get tick labels and ``xlabel``.
    """
    columns = min(2, count)
    rows = ceil(count / columns)
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    cells: list[Axes] = list(grid.flat)
    for axes in cells[count:]:
        axes.remove()
    for axes in cells[count - columns : count]:
        axes.tick_params(labelbottom=True)
        axes.set_xlabel(xlabel)
    return cells[:count]


def policy_legend(figure: Figure, looks: Mapping[str, Look], labels: Sequence[str] = ()) -> None:
    """One legend above all panels: colour, dash and marker of each policy."""
    handles = [
        Line2D([], [], color=look.color, linestyle=look.dash, marker=look.marker)
        for look in looks.values()
    ]
    names = list(labels) or [label_of(name) for name in looks]
    columns = _LINE_CHARACTERS // (max(map(len, names)) + 11)
    figure.legend(handles, names, loc="outside upper center", ncols=max(1, columns), handlelength=4)


def say(axes: Axes, text: str) -> None:
    """Words in the middle of a panel that has nothing to draw."""
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color="#555555")
