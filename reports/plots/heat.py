"""A metric over two axes of a sweep, as a map of numbered cells."""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from reports.plots.axes import Values
from reports.plots.curves import spreads_widely
from reports.plots.tidy import (
    Places,
    axis_name,
    label_with_unit,
    named,
    points_of,
    series_of,
    shown_metric,
)
from reports.style import label_of

if TYPE_CHECKING:
    import pandas as pd

CAPTION = (
    "Every cell is a point of the sweep, the median over its seeds, with its number written in it; "
    "darker is more. Hatched cells have no value."
)
COLORS = "cividis_r"
"""Even in lightness, so that grey print shows the same order, and safe for colour-blind readers."""
_DARK = 0.55


def draw(frame: pd.DataFrame, x: str, y: str, name: str, by: str | None = None) -> Figure:
    """A map of ``name`` over the columns ``x`` and ``y`` for each label of ``by``."""
    across, up = Places.of(frame[x]), Places.of(frame[y])
    maps = {label: cells_of(rows, x, y, name, across, up) for label, rows in series_of(frame, by)}
    known = np.concatenate([cells[~np.isnan(cells)] for cells in maps.values()])
    norm = _norm_of(known)
    columns = min(len(maps), 1 if len(across.labels) > 8 else 2)
    rows = ceil(len(maps) / columns)
    figure = Figure(figsize=(7, 0.9 + rows * (0.6 + 0.34 * len(up.labels))))
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    image: Any = None
    for axes, (label, cells) in zip(grid.flat, maps.items(), strict=False):
        image = _draw_map(axes, cells, across, up, norm)
        axes.set_title(label_of(named(label, by)))
    for axes in list(grid.flat)[len(maps) :]:
        axes.remove()
    for axes in grid[:, 0]:
        axes.set_ylabel(axis_name(y))
    for column in range(columns):
        lowest = [axes for axes in grid[:, column] if axes.figure is not None][-1]
        lowest.tick_params(labelbottom=True)
        lowest.set_xlabel(axis_name(x))
    bar = figure.colorbar(image, ax=figure.axes, shrink=0.8, pad=0.02)
    bar.set_label(label_with_unit(shown_metric(name)))
    bar.ax.yaxis.set_major_formatter("{x:,g}")
    bar.ax.yaxis.set_minor_formatter(NullFormatter())
    return figure


def _norm_of(known: Values) -> Normalize:
    """From the least to the largest value; in powers of ten where they lie far apart."""
    low, high = (known.min(), known.max()) if known.size else (0.0, 1.0)
    return (LogNorm if spreads_widely(list(known)) else Normalize)(low, high)


def cells_of(frame: pd.DataFrame, x: str, y: str, name: str, across: Places, up: Places) -> Values:
    """Medians over the seeds by (label of y, label of x), NaN where there is none."""
    cells = np.full((len(up.labels), len(across.labels)), np.nan)
    for row, label in enumerate(up.labels):
        part = frame[frame[y].astype(str) == label]
        for point in points_of(part, x, name, across):
            cells[row, across.at.index(point.at)] = point.median
    return cells


def _draw_map(axes: Axes, cells: Values, across: Places, up: Places, norm: Normalize) -> Any:
    axes.grid(visible=False)
    axes.set_facecolor("white")
    axes.patch.set(hatch="////", edgecolor="#999999")
    image = axes.imshow(
        np.ma.masked_invalid(cells), cmap=COLORS, norm=norm, origin="lower", aspect="auto"
    )
    axes.set_xticks(range(len(across.labels)), across.labels)
    axes.set_yticks(range(len(up.labels)), up.labels)
    axes.tick_params(length=0)
    for (row, column), value in np.ndenumerate(cells):
        if not np.isnan(value):
            is_dark = float(norm(value)) > _DARK
            axes.text(
                column,
                row,
                f"{value:,.3g}",
                ha="center",
                va="center",
                fontsize=7,
                color="white" if is_dark else "black",
            )
    return image
