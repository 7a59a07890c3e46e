"""The memory map: which sequence owns which address, over time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend_handler import HandlerTuple
from matplotlib.patches import Patch
from numpy.typing import NDArray

from reports.plots.axes import OVER, TimeAxis, end_of, panels, say, shade_over, time_axis_of
from reports.results import RunResult
from reports.style import SEQUENCE_COLORS, label_of, sequence_palette
from sim.owners import FREE, SHARED, UNUSED

TITLE = "Memory map"
CAPTION = (
    "Each panel is one cache of a policy, from address 0 at the bottom to the last cell at the "
    "top, over time. A patch of one colour is the memory of one sequence; colours repeat after "
    f"{SEQUENCE_COLORS} sequences. White is free: white between colours is a hole. Black belongs "
    "to several sequences at once. Grey stripes are cells set aside and not used, or dead. The map "
    "shows evenly spaced addresses at evenly spaced moments, so what is small or short may be "
    "missing."
)

_WIDTH, _HEIGHT, _STRIPE = 900, 320, 4
_WHITE, _BLACK = (1.0, 1.0, 1.0), (0.0, 0.0, 0.0)
_GREYS = np.array([(0.62, 0.62, 0.62), (0.86, 0.86, 0.86)])


def image_of(
    owners: NDArray[np.int64], times: NDArray[np.float64], end: float
) -> NDArray[np.float64]:
    """Owners by (sample, address) as an RGB picture, address upwards, 0 to ``end`` seconds.

    Every column shows the last sample before its moment.
    """
    moments = (np.arange(_WIDTH) + 0.5) / _WIDTH * end
    sample = np.searchsorted(times, moments, side="right") - 1
    address = np.arange(_HEIGHT) * owners.shape[1] // _HEIGHT
    seen = owners[np.maximum(sample, 0)][:, address].T
    seen[:, sample < 0] = FREE
    picture = sequence_palette()[seen % SEQUENCE_COLORS]
    picture[seen == FREE] = _WHITE
    picture[seen == SHARED] = _BLACK
    row, column = np.nonzero(seen == UNUSED)
    picture[row, column] = _GREYS[(row + column) // _STRIPE % 2]
    return picture


def _caches(runs: Mapping[str, RunResult]) -> Iterator[tuple[str, int, RunResult]]:
    for policy, run in runs.items():
        for cache in range(max(1, len(run.summary["caches"]))):
            yield policy, cache, run


def draw(runs: Mapping[str, RunResult]) -> Figure:
    """One panel for each cache of each policy."""
    axis = time_axis_of(runs)
    caches = list(_caches(runs))
    rows = (len(caches) + 1) // 2
    figure = Figure(figsize=(7, 0.7 + 2.0 * rows))
    places = panels(figure, len(caches), axis.label)
    for axes, (policy, cache, run) in zip(places, caches, strict=True):
        _draw_panel(axes, policy, cache, run, axis)
    figure.supylabel("address (share of the cache)", fontsize=8)
    _legend(figure)
    return figure


def _draw_panel(axes: Axes, policy: str, cache: int, run: RunResult, axis: TimeAxis) -> None:
    axes.grid(visible=False)
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_formatter("{x:.0%}")
    axes.set_title(label_of(policy) + axis.note(policy))
    caches = run.summary["caches"]
    if cache < len(caches):
        what = caches[cache]
        axes.set_title(f"{what['name']}: {what['cells']:,} cells", loc="right", fontweight="normal")
    owners = run.owners(cache)
    if owners is None or owners.size == 0:
        say(axes, "nothing was served" if run.timeline.empty else "has no cells to draw")
        return
    times = run.timeline["time_s"].to_numpy(float)
    if times[0] >= end_of(run):
        say(axes, "too short to draw")
        return
    picture = image_of(owners, times, axis.end)
    axes.imshow(
        picture,
        origin="lower",
        aspect="auto",
        interpolation="none",
        extent=(0, axis.end / axis.scale, 0, 1),
    )
    shade_over(axes, run, axis)
    axis.fit(axes)


def _legend(figure: Figure) -> None:
    handles: list[Any] = [
        tuple(Patch(facecolor=color) for color in sequence_palette()[:6]),
        Patch(facecolor="white", edgecolor="#444444", linewidth=0.4),
        Patch(facecolor="black"),
        Patch(facecolor=_GREYS[1], edgecolor="#777777", hatch="//////", linewidth=0),
        Patch(facecolor=OVER),
    ]
    figure.legend(
        handles,
        ["a sequence each", "free", "shared by several", "set aside or dead", "run is over"],
        loc="outside upper center",
        ncols=5,
        handler_map={tuple: HandlerTuple(ndivide=None, pad=0)},
        handlelength=3,
    )
