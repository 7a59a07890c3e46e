"""How long prompts and outputs of a workload are."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from reports.plots.latency import cumulative
from reports.style import BLUE, DASHED, ORANGE, SOLID
from workloads.statistics import Statistics

TITLE = "Lengths of prompts and outputs"
CAPTION = (
    "Each curve says which share of requests has at most that many tokens; the thin lines mark "
    "the median and the 99th percentile. The x axis is logarithmic."
)


def draw(statistics: Statistics) -> Figure:
    """One panel, a curve for prompts and one for outputs."""
    figure = Figure(figsize=(7, 3.2))
    axes = figure.subplots()
    kinds = (
        ("prompt", statistics.prompts, BLUE, SOLID, "o"),
        ("output", statistics.outputs, ORANGE, DASHED, "s"),
    )
    for index, (kind, values, color, dash, marker) in enumerate(kinds):
        lengths, shares = cumulative(values.astype(np.float64))
        axes.plot(
            np.concatenate((lengths[:1], lengths)),
            np.concatenate(([0.0], shares)),
            drawstyle="steps-post",
            color=color,
            linestyle=dash,
            marker=marker,
            markevery=(0.06 * index, 0.2),
            label=f"{kind}: median {np.median(values):,.0f}, mean {values.mean():,.0f} tokens",
        )
    for share in (0.5, 0.99):
        axes.axhline(share, color="#888888", linewidth=0.5, zorder=0)
    axes.set_xscale("log")
    longest = max(statistics.prompts.max(), statistics.outputs.max())
    shortest = min(statistics.prompts.min(), statistics.outputs.min())
    axes.set_xlim(max(0.8, shortest / 1.3), longest * 1.3)
    axes.xaxis.set_major_locator(LogLocator(numticks=12))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_ylim(0, 1.02)
    axes.yaxis.set_major_formatter("{x:.0%}")
    axes.set_xlabel("tokens")
    axes.set_ylabel("share of requests")
    figure.legend(loc="outside upper center", ncols=2, handlelength=4)
    return figure
