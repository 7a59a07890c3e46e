"""When requests of a workload come, and how many are under way."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from reports.plots.axes import say
from reports.style import BLUE, GREEN
from workloads.statistics import Floats, Statistics

TITLE = "Arrivals and requests under way"
CAPTION = (
    "Above: requests that arrive a second, in equal intervals. Below: requests under way, as an "
    "interval's mean (line) and as its most (area), if each took a constant time for every token "
    "of its output and none waited for another. Arrivals of requests that wait for the end of "
    "others are nominal in the same way."
)

_INTERVALS = 120


def draw(statistics: Statistics) -> Figure:
    """Two panels over the same time."""
    figure = Figure(figsize=(7, 4.2))
    arrivals, running = figure.subplots(2, 1, sharex=True)
    end = float(statistics.ends.max())
    scale, unit = (3600.0, "h") if end >= 4 * 3600 else (60.0, "min") if end >= 1200 else (1.0, "s")
    edges = np.linspace(0.0, end, _INTERVALS + 1)
    counts = np.histogram(statistics.starts, edges)[0]
    if statistics.starts[-1] > statistics.starts[0]:
        arrivals.stairs(counts / np.diff(edges), edges / scale, color=BLUE, fill=True, alpha=0.25)
        arrivals.stairs(counts / np.diff(edges), edges / scale, color=BLUE, baseline=None)
    else:
        at = f"{statistics.starts[0]:g} s"
        arrivals.set_yticks([])
        say(arrivals, f"all {statistics.starts.size:,} requests arrive at {at}")
    means, most = _within(statistics, edges)
    running.stairs(most, edges / scale, color=GREEN, fill=True, alpha=0.25, label="most")
    running.stairs(means, edges / scale, color=GREEN, baseline=None, label="mean")
    nominal = statistics.waiting > 0 or statistics.clients is not None
    arrivals.set_ylabel("arrivals/s" + (" (nominal)" if nominal else ""))
    running.set_ylabel("under way (nominal)")
    running.set_title(f"with {statistics.seconds_per_token:g} s a token and no waiting")
    running.set_xlabel(f"time ({unit})")
    running.legend(loc="upper right", ncols=2)
    for axes in (arrivals, running):
        axes.set_xlim(0, end / scale)
        axes.set_ylim(bottom=0)
    # Room for the legend above the curve.
    running.set_ylim(top=1.25 * max(1.0, float(most.max())))
    return figure


def _within(statistics: Statistics, edges: Floats) -> tuple[Floats, Floats]:
    """Mean and most requests under way in each interval."""
    times, running = statistics.concurrency
    held = np.concatenate(([0.0], np.cumsum(running[:-1] * np.diff(times))))
    means = np.diff(np.interp(edges, times, held)) / np.diff(edges)
    # The most at an edge is what holds there, and within, the highest change.
    at_edges = np.concatenate(([0], running))[np.searchsorted(times, edges, side="right")]
    most = np.maximum(at_edges[:-1], means)
    places = np.clip(np.searchsorted(edges, times, side="right") - 1, 0, means.size - 1)
    np.maximum.at(most, places, running)
    return means, most
