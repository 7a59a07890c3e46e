"""The life of single requests under every policy: what the time from arrival to end went into."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from reports.phases import KINDS, NEEDED, phases_of, rows_of
from reports.plots.axes import largest_shown, mark_cut, say
from reports.results import RunResult
from reports.style import BAND_EDGE, PHASES, label_of
from workloads.errors import InputError

TITLE = "Waterfall of single requests"
CAPTION = (
    "Each panel is one request, each bar its life under one policy, from arrival (0) to last "
    "token; shorter is better. The requests are those whose latency, added up over the policies, "
    "is the median, the 90th percentile and the 99th. Queued: waits to be admitted. Prefill: until "
    "the first token. Preempted and swapped: has given up its memory. Recompute: computes again "
    "what it gave up. Stalled: keeps its memory but gets no token. A bar that is far longer than "
    "the middle one is cut off, with the second at which it ends."
)
RANKS = {"median": 0.5, "90th percentile": 0.9, "99th percentile": 0.99}


def draw(runs: Mapping[str, RunResult], requests: Sequence[int] = ()) -> Figure:
    """One panel a request: those with the given ids, or some of each rank of latency.

    Raises `InputError` for an id that no run has.
    """
    chosen = {f"request {each}": each for each in requests} or typical(runs)
    for request in chosen.values():
        if all((run.requests["request"] != request).all() for run in runs.values()):
            raise InputError(f"no request {request} in these results")
    count = max(1, len(chosen))
    figure = Figure(figsize=(7, 0.8 + count * (0.62 + 0.2 * len(runs))))
    grid = figure.subplots(count, 1, squeeze=False)[:, 0]
    if not chosen:
        say(grid[0], "no request was finished by every policy")
    for axes, (words, request) in zip(grid, chosen.items(), strict=False):
        _panel(axes, runs, request)
        axes.set_title(words)
    grid[-1].set_xlabel("time since arrival (s)")
    figure.legend(
        handles=[
            Patch(
                facecolor=PHASES[kind].color,
                hatch=PHASES[kind].hatch,
                edgecolor=BAND_EDGE,
                linewidth=0.4,
                label=kind,
            )
            for kind in KINDS
        ],
        loc="outside upper center",
        ncols=len(KINDS),
        handlelength=1.8,
    )
    return figure


def typical(runs: Mapping[str, RunResult]) -> dict[str, int]:
    """Requests at the ranks of latency summed over all runs, of those that all of them finished."""
    if not all(set(NEEDED) <= set(run.requests) for run in runs.values()):
        return {}
    latencies = pd.concat(
        [run.finished.groupby("request")["e2e_s"].max() for run in runs.values()], axis=1
    ).dropna()
    if latencies.empty:
        return {}
    order = latencies.sum(axis=1).sort_values(kind="stable").index
    found = {words: int(order[int(rank * (len(order) - 1))]) for words, rank in RANKS.items()}
    return {f"{words}: request {request}": request for words, request in found.items()}


def _panel(axes: Axes, runs: Mapping[str, RunResult], request: int) -> None:
    names: list[str] = []
    ends: list[float] = []
    for policy, run in runs.items():
        rows = run.requests[run.requests["request"] == request]
        for row in rows_of(rows):
            sample = f", sample {row.sample}" if len(rows) > 1 else ""
            ends.append(0.0)
            for phase in phases_of(row):
                look = PHASES[phase.kind]
                ends[-1] = phase.end - row.arrival_s
                axes.barh(
                    len(names),
                    phase.end - phase.start,
                    left=phase.start - row.arrival_s,
                    height=0.72,
                    color=look.color,
                    hatch=look.hatch,
                    edgecolor=BAND_EDGE,
                    linewidth=0.4,
                )
            if row.status == "failed":
                axes.text(0, len(names), f" failed: {row.reason}", va="center", fontsize=7)
            names.append(label_of(policy) + sample)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    end = largest_shown(ends)
    axes.set_xlim(0, 1.05 * (end or max(ends)) or 1)
    for place, beyond in enumerate(ends):
        if beyond > end > 0:
            mark_cut(axes, place, f"to {beyond:,.4g} s")
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.xaxis.set_major_formatter("{x:,g}")
