"""Times of a calibration as its fitted models predict them, over the measured ones."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, NullFormatter

from reports.style import BLACK, VERMILION

_COLUMNS = 3


def draw(data: Mapping[str, Any]) -> Figure:
    """A panel for every kernel of a calibration file; points that were held out stand out.

    Both axes are logarithmic and equal, so a constant distance from the diagonal is a constant
    relative error. Bars: from the 10th to the 90th percentile of the repeats. Titles: the median
    error of the points that were held out.
    """
    groups: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in data["points"]:
        groups[row["kernel"]].append(row)
    rows = ceil(len(groups) / _COLUMNS)
    figure = Figure(figsize=(7, 0.5 + 2.3 * rows))
    panels = figure.subplots(rows, _COLUMNS, squeeze=False)
    for axes in panels.flat[len(groups) :]:
        axes.remove()
    for axes, (kernel, group) in zip(panels.flat, groups.items(), strict=False):
        _panel(axes, kernel, group, data["errors"].get(kernel, {}))
    for axes in panels[:, 0]:
        axes.set_ylabel("predicted")
    for axes in panels.flat[max(0, len(groups) - _COLUMNS) : len(groups)]:
        axes.set_xlabel("measured")
    handles, names = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=2)
    return figure


def _panel(
    axes: Axes, kernel: str, group: Sequence[Mapping[str, Any]], error: Mapping[str, Any]
) -> None:
    for held, label, color, marker in (
        (False, "fitted", BLACK, "o"),
        (True, "held out", VERMILION, "D"),
    ):
        rows = [row for row in group if bool(row["held_out"]) is held]
        measured = [row["seconds"] for row in rows]
        axes.errorbar(
            measured,
            [row["predicted"] for row in rows],
            xerr=[
                [max(0.0, row["seconds"] - row["low"]) for row in rows],
                [max(0.0, row["high"] - row["seconds"]) for row in rows],
            ],
            linestyle="none",
            marker=marker,
            markersize=3,
            elinewidth=0.6,
            color=color,
            label=label,
        )
    everything = [row[name] for row in group for name in ("seconds", "predicted")]
    ends = min(everything) / 1.5, max(everything) * 1.5
    axes.plot(ends, ends, color=BLACK, linewidth=0.6, scalex=False, scaley=False)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(*ends)
    axes.set_ylim(*ends)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(EngFormatter(unit="s"))
        axis.set_minor_formatter(NullFormatter())
    axes.set_title(f"{kernel}: {error['median']:.1%}" if "median" in error else kernel)
