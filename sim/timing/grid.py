"""Measurements on a grid of several axes, between whose points is interpolated linearly.

A profile need not have every combination of its axes: where two sweeps of different fineness are
laid over each other, or where a combination did not fit into the memory, points are missing. What
lies between two measured points of an axis is filled linearly, once, when the grid is made; what
lies beyond all measured points is filled too, but a query that touches it counts as outside.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from workloads.errors import InputError

Floats = NDArray[np.float64]


class Grid:
    """Values over named axes, and a memory of what was asked outside of them.

    Queries are points; below an axis its first value counts. Above it the last two points are
    continued (``beyond="line"``) or the last is held (``"hold"``). Both are noted in `outside`.
    """

    def __init__(
        self,
        names: Sequence[str],
        points: Floats,
        values: Floats,
        beyond: Literal["line", "hold"] = "line",
    ) -> None:
        """``points``: one row a measurement, one column a name.

        Raises `InputError` where there is no point, or two values for one.
        """
        if not len(values):
            raise InputError(f"expected measurements over {', '.join(names)}, got none")
        self.names = tuple(names)
        self.axes: tuple[Floats, ...] = tuple(np.unique(column) for column in points.T)
        self._hold = beyond == "hold"
        cells = tuple(
            np.searchsorted(axis, column) for axis, column in zip(self.axes, points.T, strict=True)
        )
        table = np.full([len(axis) for axis in self.axes], np.nan)
        table[cells] = values
        if np.count_nonzero(~np.isnan(table)) != len(values):
            raise InputError(f"expected one measurement for every {', '.join(names)}, got several")
        _fill_between(table, self.axes)
        self._known = ~np.isnan(table)
        # What is held has no wrong continuation that would be worth a note.
        self._is_whole = self._hold or bool(self._known.all())
        _fill_beyond(table, self.axes, self._hold)
        self._table = table
        self._asked: dict[str, tuple[float, float]] = {}
        self._holes = False
        self.is_outside = False
        """Whether anything outside was asked."""

    def at(self, *where: Any) -> Floats:
        """Values at points: one coordinate an axis, numbers first, then equally long arrays.

        The same operations for every element, whatever the length of the arrays.
        """
        numbers = [x for x in where if not isinstance(x, np.ndarray)]
        arrays = where[len(numbers) :]
        for name, axis, x in zip(self.names, self.axes, where, strict=True):
            self._note(name, axis, x)
        values = self._interpolated(self._table, numbers, arrays)
        if not self._is_whole:
            known = self._interpolated(self._known.astype(np.float64), numbers, arrays)
            self._holes |= bool((np.abs(known - 1.0) > 1e-9).any())
            self.is_outside |= self._holes
        return values

    def parted(self, at: int) -> Grid:
        """The grid with a jump in its first axis, of whole numbers: from ``at`` on it is another.

        No line leads across; up to ``at - 1`` and down to ``at`` the nearest two points of the
        same side are continued. Unchanged where a side has fewer than two.
        """
        axis = self.axes[0]
        above = int(np.searchsorted(axis, at))
        if not 2 <= above <= len(axis) - 2:
            return self
        parted = copy(self)
        for where, first in ((at, above), (at - 1, above - 2)):
            if where in parted.axes[0]:
                continue
            place = int(np.searchsorted(parted.axes[0], where))
            weight = (where - axis[first]) / (axis[first + 1] - axis[first])
            low, high = self._table[first], self._table[first + 1]
            known = self._known[first] & self._known[first + 1]
            parted.axes = (np.insert(parted.axes[0], place, where), *self.axes[1:])
            parted._table = np.insert(parted._table, place, low + (high - low) * weight, axis=0)
            parted._known = np.insert(parted._known, place, known, axis=0)
        parted._asked = {}
        return parted

    def _interpolated(self, table: Floats, numbers: list[float], arrays: Sequence[Any]) -> Floats:
        for axis, x in zip(self.axes, numbers, strict=False):
            low, high, weight = self._bracket(axis, np.float64(x))
            table = table[low] + (table[high] - table[low]) * weight
        if not arrays:
            return table
        return self._gathered(table, self.axes[len(numbers) :], arrays)

    def _gathered(self, table: Floats, axes: Sequence[Floats], arrays: Sequence[Any]) -> Floats:
        """Interpolates the first axis last, since all corners of the others are needed first."""
        low, high, weight = self._bracket(axes[0], arrays[0])
        if len(axes) == 1:
            return np.asarray(table[low] + (table[high] - table[low]) * weight)
        below, above = low, high
        low, high, inner = self._bracket(axes[1], arrays[1])
        at_below = table[below, low] + (table[below, high] - table[below, low]) * inner
        at_above = table[above, low] + (table[above, high] - table[above, low]) * inner
        return np.asarray(at_below + (at_above - at_below) * weight)

    def _bracket(self, axis: Floats, x: Any) -> tuple[Any, Any, Any]:
        """Indices of the neighbours on an axis, and the share of the upper one."""
        if len(axis) == 1:
            first = np.zeros_like(x, dtype=np.int64)
            return first, first, np.zeros_like(x)
        low = np.clip(np.searchsorted(axis, x, side="right") - 1, 0, len(axis) - 2)
        weight = (x - axis[low]) / (axis[low + 1] - axis[low])
        return low, low + 1, np.clip(weight, 0.0, 1.0 if self._hold else np.inf)

    def _note(self, name: str, axis: Floats, x: Any) -> None:
        lowest, highest = float(np.min(x)), float(np.max(x))
        if lowest >= axis[0] and highest <= axis[-1]:
            return
        self.is_outside = True
        before = self._asked.get(name, (lowest, highest))
        self._asked[name] = (min(before[0], lowest), max(before[1], highest))

    @property
    def outside(self) -> list[str]:
        """A line for every axis on which something outside its range was asked, and for holes."""
        lines = []
        for name, axis in zip(self.names, self.axes, strict=True):
            if name in self._asked:
                low, high = self._asked[name]
                lines.append(
                    f"{name} from {low:g} to {high:g} asked, {axis[0]:g} to {axis[-1]:g} profiled"
                )
        if self._holes:
            lines.append(f"combinations of {', '.join(self.names)} asked that are not profiled")
        return lines


def _fill_between(table: Floats, axes: Sequence[Floats]) -> None:
    """Fill what lies between two known points of a line, the last axis first, in place."""
    for number in reversed(range(table.ndim)):
        lines, axis = np.moveaxis(table, number, -1), axes[number]
        for index in map(tuple, np.argwhere(np.isnan(lines).any(axis=-1))):
            line = lines[index]
            known = np.flatnonzero(~np.isnan(line))
            if len(known) > 1:
                inner = slice(known[0], known[-1] + 1)
                line[inner] = np.interp(axis[inner], axis[known], line[known])


def _fill_beyond(table: Floats, axes: Sequence[Floats], hold: bool) -> None:
    """Fill what lies beyond the known points, the last axis first, in place.

    Only the upper end of a line is ever continued; its lower end is held.
    """
    for number in reversed(range(table.ndim)):
        lines, axis = np.moveaxis(table, number, -1), axes[number]
        for index in map(tuple, np.argwhere(np.isnan(lines).any(axis=-1))):
            line = lines[index]
            known = np.flatnonzero(~np.isnan(line))
            if not len(known):
                continue
            first, last = known[0], known[-1]
            line[:first] = line[first]
            slope = 0.0
            if not hold and len(known) > 1:
                slope = (line[last] - line[last - 1]) / (axis[last] - axis[last - 1])
            line[last + 1 :] = line[last] + slope * (axis[last + 1 :] - axis[last])
