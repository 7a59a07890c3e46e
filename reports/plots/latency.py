"""Latency distributions: TTFT, TPOT, ITL and E2E as cumulative shares."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from reports.metrics import DISTRIBUTIONS, metric
from reports.plots.axes import Values, policy_legend, say
from reports.results import RunResult
from reports.style import label_of, looks_of

TITLE = "Latency distributions"
CAPTION = (
    "Each curve says which share of requests (for ITL: of gaps between tokens) was served within "
    "the time on the x axis; further left is better, and the thin lines mark the median and the "
    "99th percentile. The x axis is logarithmic where values spread widely. Requests that failed "
    "are in no curve; the legend counts them."
)

_POINTS = 400
_SPREAD_FOR_LOG = 20.0
_SPREAD_FOR_DECADES = 300.0


def cumulative(values: Values) -> tuple[Values, Values]:
    """Sorted values and the cumulative share at each, thinned to a few hundred points."""
    ordered = np.sort(values[~np.isnan(values)])
    if ordered.size == 0:
        return ordered, ordered
    ranks = np.unique(np.linspace(0, ordered.size - 1, min(_POINTS, ordered.size)).astype(int))
    return ordered[ranks], (ranks + 1) / ordered.size


def _curve(run: RunResult, name: str) -> tuple[Values, Values]:
    if name != "itl_s":
        return cumulative(run.finished[name].to_numpy(float))
    points = np.array(run.summary["itl_cdf"], float).reshape(-1, 2)
    return points[:, 0], points[:, 1]


def draw(runs: Mapping[str, RunResult]) -> Figure:
    """Four panels, one curve a policy in each."""
    looks = looks_of(runs)
    figure = Figure(figsize=(7, 5))
    for axes, name in zip(figure.subplots(2, 2, sharey=True).flat, DISTRIBUTIONS, strict=True):
        shown = metric(name)
        curves = {policy: _curve(run, name) for policy, run in runs.items()}
        for index, (policy, (values, shares)) in enumerate(curves.items()):
            look = looks[policy]
            axes.plot(
                values * shown.scale,
                shares,
                drawstyle="steps-post",
                color=look.color,
                linestyle=look.dash,
                marker=look.marker,
                markevery=(0.03 * index, 0.25),
            )
        _finish(axes, [values * shown.scale for values, _ in curves.values()])
        axes.set_title(shown.label)
        axes.set_xlabel(f"{shown.label} ({shown.unit})")
    for axes in figure.axes[::2]:
        axes.set_ylabel("share served")
    policy_legend(figure, looks, [_legend_text(policy, run) for policy, run in runs.items()])
    return figure


def _legend_text(policy: str, run: RunResult) -> str:
    failed = run.summary["requests_failed"]
    return f"{label_of(policy)} ({failed:,} failed)" if failed else label_of(policy)


def _finish(axes: Axes, curves: list[Values]) -> None:
    values = np.concatenate(curves)
    axes.set_ylim(0, 1.02)
    axes.yaxis.set_major_formatter("{x:.0%}")
    if values.size == 0:
        say(axes, "no request has one")
        return
    for share in (0.5, 0.99):
        axes.axhline(share, color="#888888", linewidth=0.5, zorder=0)
    if values.min() > 0 and values.max() > _SPREAD_FOR_LOG * values.min():
        axes.set_xscale("log")
        wide = values.max() > _SPREAD_FOR_DECADES * values.min()
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0,) if wide else (1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter("{x:,g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_xlim(left=0)
