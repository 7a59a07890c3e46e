"""The pictures that a study asks for, drawn from the stored results of its sweep."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import partial
from itertools import product
from typing import TYPE_CHECKING, Any

from reports.plots import Picture, rendered
from reports.sweep import Sweep
from sim.metrics import Objectives

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

Plot = Mapping[str, Any]

BETWEEN = (
    "A search that met its bound is drawn there. With an even number of seeds the dot lies between "
    "two rates, of which the table names the lower."
)


def pictures_of(sweep: Sweep) -> Iterator[Picture]:
    """Every picture that is asked for; where other axes vary too, one for each of their labels."""
    frame = _with_losses(sweep, sweep.frame())
    for number, plot in enumerate(sweep.index["plots"], 1):
        for place, rows in _parts(sweep, plot, frame):
            if rows.empty:
                continue
            png, svg = rendered(partial(_draw, sweep, plot, rows))
            where = ", ".join(f"{axis} {label}" for axis, label in place.items())
            title = f"{_title(plot)}{f' ({where})' if where else ''}"
            name = _slug("-".join([str(number), plot["kind"], *place.values()]))
            yield Picture(name, title, _module(plot).CAPTION, png, svg)
    if sweep.index["searches"]:
        yield _of_capacities(sweep)


def _of_capacities(sweep: Sweep) -> Picture:
    """The rates that searches found; a search that met its bound is drawn there."""
    import pandas as pd

    from reports.capacity_table import RATE, rates_of
    from reports.plots import dots

    rows = [(*labels, rate) for labels, found in rates_of(sweep).items() for rate in found]
    frame = pd.DataFrame(rows, columns=[*sweep.axes, RATE])
    others = [axis for axis in sweep.axes if axis != sweep.index["compared"]]
    several = [axis for axis in others if len(sweep.labels(axis)) > 1]
    by = sweep.index["compared"] if several else None
    frame["where"] = frame[several or sweep.axes[:1]].agg(", ".join, axis=1)
    x = "where" if several else sweep.index["compared"]
    png, svg = rendered(partial(dots.draw, frame, x, RATE, by))
    caption = f"{dots.CAPTION} {BETWEEN}"
    return Picture("capacity", "Capacity", caption, png, svg)


def _with_losses(sweep: Sweep, frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with ``(lossy)`` behind labels of the compared axis whose policy always is."""
    axis, names = str(sweep.index["compared"]), {}
    for label in sweep.labels(axis):
        lost = frame.loc[frame[axis] == label, "lossy"]
        names[label] = f"{label} (lossy)" if len(lost) and all(lost) else label
    return frame.assign(**{axis: frame[axis].map(names)})


def _by(sweep: Sweep, plot: Plot) -> str | None:
    """The axis that tells lines or maps apart; None where it is an axis of the picture itself."""
    by = plot["by"] or sweep.index["compared"]
    return None if by in (plot["x"], plot["y"]) else str(by)


def _parts(
    sweep: Sweep, plot: Plot, frame: pd.DataFrame
) -> Iterator[tuple[dict[str, str], pd.DataFrame]]:
    """Rows that go into one picture, by the labels of the axes that are not drawn in it."""
    drawn = {plot["x"], plot["y"], _by(sweep, plot)}
    others = [] if plot["kind"] == "pareto" else [a for a in sweep.axes if a not in drawn]
    several = [axis for axis in others if len(sweep.labels(axis)) > 1]
    for labels in product(*(sweep.labels(axis) for axis in several)):
        place = dict(zip(several, labels, strict=True))
        rows = frame
        for axis, label in place.items():
            rows = rows[rows[axis] == label]
        yield place, rows


def _module(plot: Plot) -> Any:
    # Matplotlib takes long to import, so modules are imported when they draw.
    from importlib import import_module

    return import_module(f"reports.plots.{plot['kind']}")


def _draw(sweep: Sweep, plot: Plot, rows: pd.DataFrame) -> Figure:
    from reports.plots import dots, heat, lines, pareto
    from reports.plots.tidy import limits_of

    by = _by(sweep, plot)
    if plot["kind"] == "heat":
        return heat.draw(rows, plot["x"], plot["y"], plot["metric"], by)
    if plot["kind"] == "pareto":
        return pareto.draw(rows, plot["x"], plot["y"], by)
    if plot["kind"] == "dots":
        return dots.draw(rows, plot["x"], plot["metric"], by, log=plot["log_x"])
    stated = sweep.index["setting"].get("slo", {})
    objectives = {
        name: Objectives(each["ttft_s"], each["tpot_s"]) for name, each in (stated or {}).items()
    }
    limits = limits_of(plot["metric"], objectives)
    return lines.draw(rows, plot["x"], plot["metric"], by, limits=limits, log_x=plot["log_x"])


def _title(plot: Plot) -> str:
    from reports.plots.tidy import axis_name, shown_metric

    if plot["kind"] == "pareto":
        return f"{shown_metric(plot['y']).label} against {shown_metric(plot['x']).label}"
    over = " and ".join(axis_name(each) for each in (plot["x"], plot["y"]) if each)
    return f"{shown_metric(plot['metric']).label} over {over}"


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-").lower()
