"""What a prefix cache could make of a workload."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from reports.plots.axes import say
from reports.plots.latency import cumulative
from reports.style import BLACK, DOTTED, GREEN, PURPLE
from workloads.statistics import Statistics

TITLE = "Reuse of prefixes"
CAPTION = (
    "Left: share of all prompt tokens that a cache of the size on the x axis (tokens, logarithmic) "
    "would have if it forgets the least recently used prefixes first; the dotted line is a cache "
    "of unlimited size. Right: share of requests of whose prompt at most the share on the x axis "
    "would be in the unlimited cache."
)

_POINTS = 400
_NOTHING = "no prefix is known to come back"


def draw(statistics: Statistics) -> Figure:
    """Two panels: hit rate by size, and the distribution over requests."""
    figure = Figure(figsize=(7, 3.2))
    by_size, by_request = figure.subplots(1, 2)
    _draw_sizes(by_size, statistics)
    _draw_requests(by_request, statistics)
    for axes in (by_size, by_request):
        axes.set_ylim(0, 1.02)
        axes.yaxis.set_major_formatter("{x:.0%}")
    return figure


def _draw_sizes(axes: Axes, statistics: Statistics) -> None:
    sizes, rates = statistics.reuse_curve()
    axes.set_title("LRU cache of limited size")
    axes.set_xlabel("cache (tokens)")
    axes.set_ylabel("hit rate (prompt tokens)")
    if not sizes.size:
        axes.set_xticks([])
        say(axes, _NOTHING)
        return
    ideal = statistics.hit_rates()[0]
    keep = np.unique(np.searchsorted(rates, np.linspace(0, rates[-1], _POINTS)))
    keep = keep[keep < sizes.size]
    end = 2.0 * float(sizes[-1])
    axes.plot(
        np.concatenate((sizes[keep[:1]], sizes[keep], [end])),
        np.concatenate(([0.0], rates[keep], rates[-1:])),
        drawstyle="steps-post",
        color=GREEN,
    )
    axes.axhline(ideal, color=BLACK, linestyle=DOTTED, linewidth=1.0)
    below = ideal > 0.9
    axes.annotate(
        f"unlimited: {ideal:.1%}",
        (0.02, ideal),
        xycoords=("axes fraction", "data"),
        xytext=(0, -3 if below else 3),
        textcoords="offset points",
        va="top" if below else "bottom",
        fontsize=7,
    )
    axes.set_xscale("log")
    axes.set_xlim(max(1.0, float(sizes[0]) / 2), end)
    axes.xaxis.set_major_locator(LogLocator(numticks=8))
    axes.xaxis.set_major_formatter(_short)
    axes.xaxis.set_minor_formatter(NullFormatter())


def _draw_requests(axes: Axes, statistics: Statistics) -> None:
    axes.set_title("Unlimited cache, by request")
    shares = statistics.sharing.hits / statistics.prompts
    if not shares.any():
        axes.set_xlabel("share of the prompt in cache")
        axes.set_xticks([])
        say(axes, _NOTHING)
        return
    values, reached = cumulative(shares)
    axes.plot(
        np.concatenate(([0.0], values, [1.0])),
        np.concatenate(([0.0], reached, [1.0])),
        drawstyle="steps-post",
        color=PURPLE,
    )
    axes.set_xlim(-0.01, 1.01)
    axes.xaxis.set_major_formatter("{x:.0%}")
    axes.set_xlabel(f"share of the prompt in cache (mean {shares.mean():.1%})")
    axes.set_ylabel("share of requests")


def _short(value: float, _: object = None) -> str:
    for limit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:g} {letter}"
    return f"{value:g}"
