"""What a validation leaves on disk: its differences, and plots of both sides."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from reports.directory import ensure_replaceable, replacing
from reports.results import json_text
from reports.style import figure_style, png_of, svg_of
from reports.validation import RunTimes, differences

INDEX = "validation.json"
PLOTS = {
    "latency": "reports.plots.validation_latency",
    "load": "reports.plots.validation_load",
}
"""Module of each figure by the name of its files."""


def ensure_validation_fits(directory: str | Path) -> None:
    """Raise `InputError` now where `write_validation` would later; changes nothing."""
    ensure_replaceable(directory, _is_validation)


def write_validation(measured: RunTimes, simulated: RunTimes, directory: str | Path) -> None:
    """Write ``validation.json`` and plots (PNG and SVG), all or nothing.

    An earlier validation in ``directory`` is replaced; `InputError` is raised where it holds
    anything else or cannot be written.
    """
    with replacing(directory, _is_validation) as root:
        (root / INDEX).write_text(json_text(differences(measured, simulated)), "utf-8")
        (root / "plots").mkdir()
        for name, module_name in PLOTS.items():
            module = import_module(module_name)
            with figure_style():
                figure = module.draw(measured, simulated)
                (root / "plots" / f"{name}.png").write_bytes(png_of(figure))
                (root / "plots" / f"{name}.svg").write_bytes(svg_of(figure))


def _is_validation(directory: Path) -> bool:
    """Whether all that is there looks like an earlier validation."""
    expected = {INDEX, "plots"}
    plots = {f"{name}.{kind}" for name in PLOTS for kind in ("png", "svg")}
    return {path.name for path in directory.iterdir()} == expected and {
        path.name for path in (directory / "plots").iterdir()
    } <= plots
