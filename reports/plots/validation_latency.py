"""Latencies of a measured run and of its simulation, as cumulative shares."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from reports.plots.latency import cumulative
from reports.style import BLACK, DASHED, SOLID, VERMILION
from reports.validation import RunTimes

LOOKS = {"measured": (BLACK, SOLID), "simulated": (VERMILION, DASHED)}
"""Colour and dash of each side, in all figures of a validation."""

_PANELS = (
    ("ttft", "TTFT (s)", 1.0),
    ("ttft_from_arrival", "TTFT from arrival (s)", 1.0),
    ("tpot", "TPOT (ms)", 1e3),
    ("e2e", "E2E (s)", 1.0),
)


def draw(measured: RunTimes, simulated: RunTimes) -> Figure:
    """Four panels; each curve says which share of requests was served within the time."""
    figure = Figure(figsize=(7, 5))
    for axes, (name, label, scale) in zip(
        figure.subplots(2, 2, sharey=True).flat, _PANELS, strict=True
    ):
        for (side, (color, dash)), times in zip(LOOKS.items(), (measured, simulated), strict=True):
            values, shares = cumulative(np.asarray(getattr(times, name), dtype=np.float64))
            axes.plot(
                values * scale,
                shares,
                drawstyle="steps-post",
                color=color,
                linestyle=dash,
                label=side,
            )
        axes.set_xlabel(label)
        axes.set_xlim(left=0)
        axes.set_ylim(0, 1.02)
        axes.yaxis.set_major_formatter("{x:.0%}")
    for axes in figure.axes[::2]:
        axes.set_ylabel("share served")
    handles, names = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=2, handlelength=4)
    return figure
