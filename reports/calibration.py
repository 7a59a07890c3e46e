"""A calibration for people: errors of what was held out, by kernel, and a plot of all points."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

from reports.plots import rendered
from workloads.errors import InputError

WRITERS = {".png": 0, ".svg": 1}
"""Formats of a plot by the ending of its file, as `reports.plots.rendered` gives them."""


def error_table(data: Mapping[str, Any]) -> Table:
    """Relative errors on the points that were not fitted: median, 95th percentile, worst."""
    table = Table("kernel", box=None, pad_edge=False)
    for title in ("points", "median", "p95", "worst"):
        table.add_column(title, justify="right")
    for kernel, error in data["errors"].items():
        sizes = [
            f"{error[name]:.1%}" if name in error else "" for name in ("median", "p95", "worst")
        ]
        table.add_row(kernel, str(error["points"]), *sizes)
    return table


def ensure_plot_fits(path: Path) -> None:
    """Raise `InputError` now where `write_plot` would later."""
    if path.suffix not in WRITERS:
        raise InputError(f"{path}: expected a name that ends in {' or '.join(WRITERS)}")
    if not path.parent.is_dir():
        raise InputError(f"{path}: no such folder: {path.parent}")


def write_plot(data: Mapping[str, Any], path: Path) -> None:
    """Predicted over measured times of all points of a calibration file, as PNG or SVG."""
    from reports.plots.calibration import draw

    ensure_plot_fits(path)
    image = rendered(lambda: draw(data))[WRITERS[path.suffix]]
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        unfinished.write_bytes(image)
        unfinished.replace(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from None
