"""What the KV memory holds over time, with the fragmentation split."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from reports.plots.axes import (
    OVER,
    TimeAxis,
    Values,
    interval_means,
    panels,
    say,
    shade_over,
    time_axis_of,
)
from reports.results import RunResult
from reports.style import BAND_EDGE, BANDS, label_of

TITLE = "What the KV memory holds"
CAPTION = (
    "Every panel is one policy; the bands add up to its whole KV memory, averaged over short "
    "intervals. Live: tokens that a "
    "sequence can still attend to, of one or of several sequences. Reserved: set aside for tokens "
    "that will come. Internal: set aside and never used, or dead. External: free, but in pieces "
    "too small for the request that wants it. White is free. Everything between live and free is "
    "waste."
)


def bands(run: RunResult) -> Values:
    """Bytes by (band, sample) in the order of `BANDS`; the bands add up to the capacity."""
    column = {
        name: run.timeline[f"{name}_bytes"].to_numpy(float)
        for name in ("live", "shared", "reserved", "internal", "external", "free")
    }
    return np.array(
        [
            column["live"] - column["shared"],
            column["shared"],
            column["reserved"],
            column["internal"],
            column["external"],
            column["free"] - column["external"],
        ]
    )


def draw(runs: Mapping[str, RunResult]) -> Figure:
    """One panel a policy: stacked shares of its memory."""
    axis = time_axis_of(runs)
    rows = (len(runs) + 1) // 2
    figure = Figure(figsize=(7, 0.7 + 1.75 * rows))
    for axes, (policy, run) in zip(
        panels(figure, len(runs), axis.label), runs.items(), strict=True
    ):
        _draw_panel(axes, policy, run, axis)
    figure.supylabel("share of KV memory", fontsize=8)
    figure.legend(
        handles=[
            Patch(facecolor=b.color, hatch=b.hatch, edgecolor=BAND_EDGE, linewidth=0.4, label=name)
            for name, b in BANDS.items()
        ]
        + [Patch(facecolor=OVER, label="run is over")],
        loc="outside upper center",
        ncols=len(BANDS) + 1,
        columnspacing=1.2,
    )
    return figure


def _draw_panel(axes: Axes, policy: str, run: RunResult, axis: TimeAxis) -> None:
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_formatter("{x:.0%}")
    axes.set_title(label_of(policy) + axis.note(policy))
    capacity = run.timeline["capacity_bytes"].to_numpy(float)
    if not capacity.any():
        say(axes, "keeps no K/V")
        return
    axes.set_title(f"{capacity.max() / 2**30:,.2f} GiB", loc="right", fontweight="normal")
    edges, shares = interval_means(run, axis, bands(run) / capacity)
    if shares.size == 0:
        say(axes, "too short to draw")
        return
    top = np.cumsum(np.pad(shares, ((0, 0), (0, 1)), mode="edge"), axis=0)
    lower = np.zeros_like(edges)
    for upper, band in zip(top, BANDS.values(), strict=True):
        axes.fill_between(
            edges / axis.scale,
            lower,
            upper,
            step="post",
            facecolor=band.color,
            hatch=band.hatch,
            edgecolor=BAND_EDGE,
            linewidth=0,
        )
        lower = upper
    shade_over(axes, run, axis)
    axis.fit(axes)
