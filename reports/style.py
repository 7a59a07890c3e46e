"""How figures look: a colour, a dash and a marker for each policy, the same in every figure.

The colours are those of Okabe and Ito (2008), which colour-blind readers can tell apart, with an
olive for their yellow, which is lost on white; dashes and markers say the same once more for
readers of grey print.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
OLIVE, BLUE, VERMILION, PURPLE = "#7F7A1D", "#0072B2", "#D55E00", "#CC79A7"

Dash = tuple[float, tuple[float, ...]]

SOLID: Dash = (0, ())
DASHED: Dash = (0, (5, 1.5))
DOTTED: Dash = (0, (1, 1.2))
DASH_DOT: Dash = (0, (6, 1.5, 1, 1.5))
LONG_DOT: Dash = (0, (8, 1.5, 1, 1.5, 1, 1.5))


@dataclass(frozen=True)
class Look:
    """Colour, line dash (offset, on-off lengths in line widths) and marker of one policy."""

    color: str
    dash: Dash
    marker: str


_KNOWN = {
    "none": Look(BLACK, DOTTED, "x"),
    "contiguous": Look(ORANGE, DASHED, "s"),
    "ring": Look(BLUE, DASH_DOT, "o"),
    "paged": Look(GREEN, SOLID, "^"),
    "iswa": Look(VERMILION, LONG_DOT, "D"),
    "recurrent": Look(PURPLE, DASHED, "v"),
    "hybrid": Look(SKY, SOLID, "P"),
    "summary": Look(OLIVE, DASH_DOT, "*"),
    "radix": Look(PURPLE, SOLID, "h"),
}

_COLORS = (BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, BLACK)
_DASHES = (SOLID, DASHED, DASH_DOT, DOTTED, LONG_DOT)
_MARKERS = "o^sDvPX*<>"


def _spare_looks(taken: Iterable[Look]) -> Iterator[Look]:
    looks = list(taken)
    used = {(look.color, look.dash) for look in looks}
    # Where there are no lines, colour and marker have to do.
    used_marks = {(look.color, look.marker) for look in looks}
    turn = 0
    while True:
        # Rounds over dashes, so that the first unknown policies differ in colour and in dash.
        for shift, (index, color) in product(range(len(_DASHES)), enumerate(_COLORS)):
            dash = _DASHES[(index + shift) % len(_DASHES)]
            marker = _MARKERS[(index + shift) % len(_MARKERS)]
            if turn or ((color, dash) not in used and (color, marker) not in used_marks):
                yield Look(color, dash, marker)
        turn += 1


def looks_of(policies: Iterable[str]) -> dict[str, Look]:
    """A look for each policy: a fixed one for those that kvlab has, the next spare one else."""
    names = list(policies)
    known = {name: _KNOWN[name] for name in names if name in _KNOWN}
    spare = _spare_looks(known.values())
    return {name: known[name] if name in known else next(spare) for name in names}


def label_of(name: str, longest: int = 28) -> str:
    """A policy's name as figures print it: cut where it is too long, never taken for private.

    matplotlib leaves labels that begin with an underscore out of legends.
    """
    cut = name if len(name) <= longest else name[: longest - 1] + "…"
    return f" {cut}" if cut.startswith("_") else cut


@dataclass(frozen=True)
class Band:
    """Fill of one kind of memory: colour and hatch."""

    color: str
    hatch: str


BAND_EDGE = "#333333"
BANDS = {
    "live, one sequence": Band("#3B5B7C", ""),
    "live, shared": Band("#8FB0D3", "...."),
    "reserved": Band("#CFC8E8", "\\\\\\\\"),
    "internal": Band("#EBC9A4", "////"),
    "external": Band("#B5564B", "xxxx"),
    "free": Band("#FFFFFF", ""),
}
"""Kinds of memory, from the bottom of a stack to its top. None has the colour of a policy."""

PHASES = {
    "queued": Band("#FFFFFF", ""),
    "prefill": Band("#3B5B7C", ""),
    "decode": Band("#A9C4DE", ""),
    "preempted": Band("#B5564B", "xxxx"),
    "swapped": Band("#CFC8E8", "\\\\\\\\"),
    "recompute": Band("#EBC9A4", "////"),
    "stalled": Band("#8A8A8A", "...."),
}
"""What a sequence's time goes into (`reports.phases`)."""

SEQUENCE_COLORS = 21


def sequence_palette() -> NDArray[np.float64]:
    """RGB of the colours that sequences take in turn by their id, ``(SEQUENCE_COLORS, 3)``.

    Neighbouring ids are 137 degrees of hue apart and differ in lightness, which is what grey
    print and colour-blind readers see. None of them is near white, grey or black.
    """
    index = np.arange(SEQUENCE_COLORS)
    hue = 2 * np.pi * (index * 8 % SEQUENCE_COLORS) / SEQUENCE_COLORS
    lightness = np.array([0.45, 0.66, 0.85])[index % 3]
    return _rgb_of(lightness, 0.14 * np.cos(hue), 0.14 * np.sin(hue))


def _rgb_of(
    lightness: NDArray[np.float64], a: NDArray[np.float64], b: NDArray[np.float64]
) -> NDArray[np.float64]:
    """sRGB of Oklab colours (Ottosson, 2020), clipped to what can be shown; last axis is RGB."""
    lms = np.stack([lightness, a, b], axis=-1) @ np.array(
        [
            [1.0, 1.0, 1.0],
            [0.3963377774, -0.1055613458, -0.0894841775],
            [0.2158037573, -0.0638541728, -1.2914855480],
        ]
    )
    linear: NDArray[np.float64] = lms**3 @ np.array(
        [
            [4.0767416621, -1.2684380046, -0.0041960863],
            [-3.3077115913, 2.6097574011, -0.7034186147],
            [0.2309699292, -0.3413193965, 1.7076147010],
        ]
    )
    linear = np.clip(linear, 0.0, 1.0)
    curved: NDArray[np.float64] = 1.055 * linear ** (1 / 2.4) - 0.055
    return np.where(linear <= 0.0031308, 12.92 * linear, curved)


@contextmanager
def figure_style() -> Iterator[None]:
    """matplotlib set to kvlab's style within the block, and as it was after it."""
    import matplotlib.style

    with matplotlib.style.context(["default", Path(__file__).with_name("kvlab.mplstyle")]):
        yield


def settle(figure: Figure) -> None:
    """Lay the figure out once and for all.

    The layout solver orders its variables by memory address, so that two equal figures may differ
    in the last digit; the rounded places of the axes do not.
    """
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.execute(figure)
    figure.set_layout_engine("none")
    for axes in figure.axes:
        left, bottom, width, height = (round(part, 5) for part in axes.get_position().bounds)
        axes.set_position((left, bottom, width, height))


def png_of(figure: Figure) -> bytes:
    """The settled figure as PNG; equal figures give equal bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def svg_of(figure: Figure) -> bytes:
    """The settled figure as SVG, without a date; equal figures give equal bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": "kvlab"})
    return buffer.getvalue()
