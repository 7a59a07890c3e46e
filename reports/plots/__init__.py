"""Figures of a comparison, one file each.

A module here has ``TITLE``, ``CAPTION`` (how to read the figure) and
``draw(runs) -> matplotlib.figure.Figure``, and a line in `PLOTS`. They are imported when drawn,
since matplotlib takes long to import.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING

from reports.results import RunResult
from reports.style import figure_style, png_of, settle, svg_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PLOTS = {
    "summary": "reports.plots.summary",
    "latency": "reports.plots.latency",
    "waterfall": "reports.plots.waterfall",
    "throughput": "reports.plots.throughput",
    "occupancy": "reports.plots.occupancy",
    "memory_map": "reports.plots.memory_map",
}
"""Module of each figure by the name of its files, in the order of the page."""


@dataclass(frozen=True)
class Picture:
    """A finished figure: title, how to read it, and its bytes in both formats."""

    name: str
    title: str
    caption: str
    png: bytes
    svg: bytes


def rendered(draw: Callable[[], Figure]) -> tuple[bytes, bytes]:
    """PNG and SVG of the figure that ``draw`` makes, in kvlab's style."""
    with figure_style():
        figure = draw()
        settle(figure)
        return png_of(figure), svg_of(figure)


def pictures_of(runs: Mapping[str, RunResult]) -> Iterator[Picture]:
    """Draw all figures, one by one, of runs by policy."""
    for name, module_name in PLOTS.items():
        module = import_module(module_name)
        png, svg = rendered(partial(module.draw, runs))
        yield Picture(name, module.TITLE, module.CAPTION, png, svg)
