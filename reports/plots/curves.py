"""Lines over numbers: the common ground of all figures that are not of one run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter, NullLocator

from reports.style import BLACK, DOTTED, Dash, Look, label_of

Which = Literal["x", "y"]
Kind = Literal["linear", "log2", "log10"]

_LINE_CHARACTERS = 115
_CHARACTERS_OF_A_HANDLE = 11
_SPREAD_FOR_LOG = 50.0


@dataclass(frozen=True)
class Curve:
    """One line. low, high: the ends of an interval around each point, where there is one.

    look: colour, dash and marker. joined: False for points without a line between them.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    look: Look
    low: Sequence[float] = field(default=())
    high: Sequence[float] = field(default=())
    joined: bool = True


@dataclass(frozen=True)
class Limit:
    """A horizontal line that says what is wanted, an objective say."""

    label: str
    at: float


@dataclass(frozen=True)
class Scale:
    """An axis: its label, how it is spaced, and where it has ticks (all of them where given)."""

    label: str
    kind: Kind = "linear"
    ticks: Sequence[float] = ()
    names: Sequence[str] = ()
    share: bool = False


def draw_curves(axes: Axes, curves: Sequence[Curve], x: Scale, y: Scale) -> None:
    """Draw ``curves`` into ``axes``; intervals become bands in the colour of their line."""
    for curve in curves:
        axes.plot(
            curve.x,
            curve.y,
            color=curve.look.color,
            linestyle=curve.look.dash if curve.joined else "none",
            marker=curve.look.marker,
            markersize=4 if curve.joined else 7,
            markerfacecolor=curve.look.color if curve.joined else "none",
        )
        if len(curve.low):
            axes.fill_between(
                curve.x, curve.low, curve.high, color=curve.look.color, alpha=0.18, linewidth=0
            )
    _apply(axes, "x", x)
    _apply(axes, "y", y)


def draw_limits(axes: Axes, limits: Sequence[Limit]) -> None:
    """Draw horizontal lines with their words at the left end."""
    for limit in limits:
        axes.axhline(limit.at, color=BLACK, linestyle=DOTTED, linewidth=1.0)
        axes.annotate(
            limit.label,
            (0, limit.at),
            xycoords=("axes fraction", "data"),
            xytext=(3, 2),
            textcoords="offset points",
            fontsize=7,
        )


def set_scale(axes: Axes, which: Which, kind: Kind) -> None:
    """How an axis is spaced; logarithmic ones get plain numbers at their ticks."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    set_scale = axes.set_xscale if which == "x" else axes.set_yscale
    if kind == "log2":
        set_scale("log", base=2)
    elif kind == "log10":
        set_scale("log")
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    if kind != "linear":
        axis.set_minor_formatter(NullFormatter())
    axis.set_major_formatter("{x:,g}")


def _apply(axes: Axes, which: Which, scale: Scale) -> None:
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_label_text(scale.label)
    set_scale(axes, which, scale.kind)
    if scale.share:
        axis.set_major_formatter("{x:.0%}")
    if len(scale.ticks):
        axis.set_ticks(list(scale.ticks), list(scale.names) or [f"{t:,g}" for t in scale.ticks])
        axis.set_minor_locator(NullLocator())


def curve_handle(curve: Curve) -> Line2D:
    """What stands for a curve in a legend."""
    return Line2D(
        [],
        [],
        color=curve.look.color,
        linestyle=curve.look.dash if curve.joined else "none",
        marker=curve.look.marker,
        markersize=4 if curve.joined else 7,
        markerfacecolor=curve.look.color if curve.joined else "none",
    )


def legend_above(figure: Figure, handles: Mapping[str, Line2D]) -> None:
    """One legend above all panels, by label, long enough to show the dashes."""
    names = [label_of(label, 48) for label in handles]
    columns = _LINE_CHARACTERS // (max(map(len, names)) + _CHARACTERS_OF_A_HANDLE)
    figure.legend(
        list(handles.values()),
        names,
        loc="outside upper center",
        ncols=max(1, min(columns, len(names))),
        handlelength=4,
    )


def figure_of_curves(
    curves: Sequence[Curve],
    x: Scale,
    y: Scale,
    limits: Sequence[Limit] = (),
    size: tuple[float, float] = (7.0, 3.4),
) -> Figure:
    """A figure of one panel with its legend above it."""
    figure = Figure(figsize=size)
    axes = figure.subplots()
    draw_curves(axes, curves, x, y)
    draw_limits(axes, limits)
    if y.kind == "linear":
        axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
    legend_above(figure, {curve.label: curve_handle(curve) for curve in curves})
    return figure


def spreads_widely(values: Sequence[float]) -> bool:
    """Whether a logarithmic axis shows these values better: all positive and far apart."""
    return bool(len(values)) and min(values) > 0 and max(values) > _SPREAD_FOR_LOG * min(values)


def dashed(look: Look, dash: Dash) -> Look:
    """The same colour and marker with another dash."""
    return Look(look.color, dash, look.marker)
