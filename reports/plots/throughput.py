"""Output tokens a second, running and waiting sequences, over time."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from reports.plots.axes import interval_means, interval_rates, policy_legend, time_axis_of
from reports.results import RunResult
from reports.style import label_of, looks_of

TITLE = "Throughput and queue over time"
CAPTION = (
    "All lines are averaged over short intervals of equal length. Top: output tokens a second. "
    "Middle: sequences that run at once. Bottom: sequences that wait. A queue that only grows "
    "means that the traffic is more than the policy can serve."
)


def draw(runs: Mapping[str, RunResult]) -> Figure:
    """Three panels above one time axis, one line a policy in each."""
    looks, axis = looks_of(runs), time_axis_of(runs)
    figure = Figure(figsize=(7, 5.6))
    top, middle, bottom = figure.subplots(3, 1, sharex=True, height_ratios=(1.3, 1, 1))
    for index, (policy, run) in enumerate(runs.items()):
        sample = run.timeline
        lines = {
            top: interval_rates(run, axis, sample["output_tokens"].to_numpy(float)),
            middle: interval_means(run, axis, sample["running"].to_numpy(float)),
            bottom: interval_means(run, axis, sample["waiting"].to_numpy(float)),
        }
        for axes, (edges, values) in lines.items():
            axes.plot(
                (edges[:-1] + edges[1:]) / 2 / axis.scale,
                values,
                color=looks[policy].color,
                linestyle=looks[policy].dash,
                marker=looks[policy].marker,
                markevery=(0.04 * index, 0.25),
            )
    for axes, label in ((top, "output tokens/s"), (middle, "running"), (bottom, "waiting")):
        axes.set_ylabel(label)
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter("{x:,.0f}")
        axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    axis.fit(bottom)
    bottom.set_xlabel(axis.label)
    policy_legend(figure, looks, [label_of(policy) + axis.note(policy) for policy in runs])
    return figure
