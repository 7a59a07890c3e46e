"""Figures of a workload, as files."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from reports.directory import ensure_replaceable, replacing
from reports.style import figure_style, png_of, settle, svg_of
from workloads.statistics import Statistics

PLOTS = {
    "lengths": "reports.plots.workload_lengths",
    "load": "reports.plots.workload_load",
    "reuse": "reports.plots.workload_reuse",
}
"""Module of each figure by the name of its files."""


def ensure_workload_fits(directory: str | Path) -> None:
    """Raise `InputError` now where `write_workload` would later; changes nothing."""
    ensure_replaceable(directory, _is_ours)


def write_workload(statistics: Statistics, directory: str | Path) -> None:
    """Draw every figure as PNG and SVG into ``directory``, all or nothing.

    Figures of an earlier workload are replaced; `InputError` is raised where the directory holds
    anything else or cannot be written.
    """
    with replacing(directory, _is_ours) as root:
        for name, module_name in PLOTS.items():
            module = import_module(module_name)
            with figure_style():
                figure = module.draw(statistics)
                settle(figure)
                (root / f"{name}.png").write_bytes(png_of(figure))
                (root / f"{name}.svg").write_bytes(svg_of(figure))


def _is_ours(directory: Path) -> bool:
    known = {f"{name}.{kind}" for name in PLOTS for kind in ("png", "svg")}
    return {path.name for path in directory.iterdir()} <= known
