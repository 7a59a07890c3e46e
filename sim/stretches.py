"""Stretches of steps, row by row, in flat arrays: a million rows take some 30 MB."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from typing import Final

from sim.packing import integers

Row = list[list[int]]
"""Stretches of one sequence: [first step, last step] each."""


PACKED: Final = 1024
"""Rows that are packed at once."""


class StretchTable:
    """One row a sequence. Rows can be added, not changed."""

    def __init__(self) -> None:
        self._steps = array("q")
        self._ends = array("q")
        self._latest: list[Row] = []
        """Rows that are not in the arrays yet."""

    def append(self, row: Row) -> None:
        """Add a row, which is not to be changed any more."""
        self._latest.append(row)
        if len(self._latest) >= PACKED:
            self._pack()

    def _pack(self) -> None:
        steps: list[int] = []
        ends: list[int] = []
        before = len(self._steps)
        for row in self._latest:
            for stretch in row:
                steps += stretch
            ends.append(before + len(steps))
        self._steps.frombytes(integers(steps).tobytes())
        self._ends.frombytes(integers(ends).tobytes())
        self._latest = []

    def __len__(self) -> int:
        return len(self._ends) + len(self._latest)

    def __getitem__(self, index: int) -> Row:
        """The row as a list of its own; negative numbers count from the end."""
        if index < 0:
            index += len(self)
        if not 0 <= index < len(self):
            raise IndexError(index)
        if self._latest:
            self._pack()
        start = self._ends[index - 1] if index else 0
        steps = self._steps[start : self._ends[index]]
        return [[first, last] for first, last in zip(steps[::2], steps[1::2], strict=True)]

    def __iter__(self) -> Iterator[Row]:
        return (self[index] for index in range(len(self)))
