"""What a measured run and its simulation did over time."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from reports.plots.validation_latency import LOOKS
from reports.validation import RunTimes

_INTERVALS = 120


def draw(measured: RunTimes, simulated: RunTimes) -> Figure:
    """Requests that run and wait, tokens a second, and the share of KV memory in use."""
    figure = Figure(figsize=(7, 5))
    running, waiting, rate, occupancy = figure.subplots(2, 2, sharex=True).flat
    end = max(measured.end, simulated.end)
    edges = np.linspace(0, end, _INTERVALS + 1)
    for (side, (color, dash)), times in zip(LOOKS.items(), (measured, simulated), strict=True):
        look = {"color": color, "linestyle": dash, "label": side}
        running.plot(edges, times.running(edges), **look)
        waiting.plot(edges, times.waiting(edges), **look)
        rate.stairs(np.diff(times.generated(edges)) / np.diff(edges), edges, baseline=None, **look)
        occupancy.plot(edges, times.occupancy(edges), **look)
    for axes, label in (
        (running, "running requests"),
        (waiting, "waiting requests"),
        (rate, "output tokens/s"),
        (occupancy, "KV memory in use"),
    ):
        axes.set_ylabel(label)
        axes.set_xlim(0, end)
        axes.set_ylim(bottom=0)
    occupancy.yaxis.set_major_formatter("{x:.0%}")
    for axes in (rate, occupancy):
        axes.set_xlabel("time (s)")
    handles, names = running.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=2, handlelength=4)
    return figure
