"""Stretches of steps, row by row, in flat arrays: a million rows take some 30 MB."""

from __future__ import annotations

from array import array
from collections.abc import Iterator

Row = list[list[int]]
"""Stretches of one sequence: [first step, last step] each."""


class StretchTable:
    """One row a sequence. Rows can be added, not changed."""

    def __init__(self) -> None:
        self._steps = array("q")
        self._ends = array("q")

    def append(self, row: Row) -> None:
        """Add a row."""
        for stretch in row:
            self._steps.extend(stretch)
        self._ends.append(len(self._steps))

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> Row:
        """The row as a list of its own; negative numbers count from the end."""
        if index < 0:
            index += len(self)
        if not 0 <= index < len(self):
            raise IndexError(index)
        start = self._ends[index - 1] if index else 0
        steps = self._steps[start : self._ends[index]]
        return [[first, last] for first, last in zip(steps[::2], steps[1::2], strict=True)]

    def __iter__(self) -> Iterator[Row]:
        return (self[index] for index in range(len(self)))
