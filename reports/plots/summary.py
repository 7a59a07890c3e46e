"""The main numbers side by side: throughput, goodput, tail latency, waste."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reports.metrics import metric
from reports.plots.axes import largest_shown, mark_cut
from reports.results import RunResult
from reports.style import BAND_EDGE, BANDS, label_of, looks_of

TITLE = "The main numbers"
CAPTION = (
    "Longer bars are better in the upper row, shorter ones in the lower row. Waste is memory that "
    "holds nothing of use, averaged over time: reserved for later, lost inside reservations, and "
    "free in pieces too small to use. A latency far beyond the middle one is cut off."
)

_WASTE = {
    "reserved": "reserved_mean",
    "internal": "internal_fragmentation_mean",
    "external": "external_fragmentation_mean",
}


def draw(runs: Mapping[str, RunResult]) -> Figure:
    """Four panels of bars, one bar a policy in each."""
    figure = Figure(figsize=(7, 1.9 + 0.42 * len(runs)))
    grid = figure.subplots(2, 2, sharey=True)
    names = ("output_tokens_per_s", "goodput_rps", "ttft_s.p99")
    for axes, name in zip(grid.flat, names, strict=False):
        _bars(axes, runs, name)
    _waste(grid[1, 1], runs)
    for axes in grid.flat:
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0, labelsize=8)
    figure.legend(*grid[1, 1].get_legend_handles_labels(), loc="outside lower right", ncols=3)
    grid[0, 0].set_yticks(range(len(runs)), [label_of(policy) for policy in runs])
    grid[0, 0].set_ylim(len(runs) - 0.4, -0.6)
    return figure


def _bars(axes: Axes, runs: Mapping[str, RunResult], name: str) -> None:
    shown = metric(name)
    values = [shown.value_of(run.summary) for run in runs.values()]
    lengths = [(value or 0.0) * shown.scale for value in values]
    colors = [look.color for look in looks_of(runs).values()]
    bars = axes.barh(np.arange(len(lengths)), lengths, height=0.7, color=colors)
    texts = [shown.text(value) for value in values]
    # A leader stands out as far as it leads; one that falls far behind would hide the others.
    end = (largest_shown(lengths) if shown.better == "lower" else 0.0) or max(lengths)
    within = [text if length <= end else "" for text, length in zip(texts, lengths, strict=True)]
    axes.bar_label(bars, within, padding=2, fontsize=7.5)
    axes.set_xlim(0, 1.18 * end or 1)
    for place, (text, length) in enumerate(zip(texts, lengths, strict=True)):
        if length > end:
            mark_cut(axes, place, text)
    axes.xaxis.set_major_formatter("{x:,.6g}")
    axes.set_title(f"{shown.label} ({shown.unit})")


def _waste(axes: Axes, runs: Mapping[str, RunResult]) -> None:
    left = np.zeros(len(runs))
    for band, name in _WASTE.items():
        shown = metric(name)
        values = np.array([100 * (shown.value_of(run.summary) or 0.0) for run in runs.values()])
        bars = axes.barh(
            np.arange(len(runs)),
            values,
            left=left,
            height=0.7,
            color=BANDS[band].color,
            hatch=BANDS[band].hatch,
            edgecolor=BAND_EDGE,
            linewidth=0.4,
            label=band,
        )
        left += values
    axes.bar_label(bars, [f"{value:.1f}" for value in left], padding=2, fontsize=7.5)
    axes.set_xlim(0, 1.18 * left.max() or 1)
    axes.set_title("Waste (% of KV memory)")
