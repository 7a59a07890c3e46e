"""What became of every request, row by row: a million rows take some 130 MB.

The latest rows are tuples; these are packed into columns now and then.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from sim.packing import floats, integers

FLOATS: Final = ("arrival_s", "first_scheduled_s", "first_token_s", "finish_s")
INTEGERS: Final = (
    "request",
    "sample",
    "conversation",
    "turn",
    "priority",
    "prompt",
    "output",
    "preemptions",
    "recomputed_tokens",
    "prefix_hit_tokens",
)
WORDS: Final = ("slo_class", "status", "reason")
NAMES: Final = (*FLOATS, *INTEGERS, *WORDS)
PACKED: Final = 4096
"""Rows that are packed at once."""


class RequestRows:
    """One row a sequence, in order of completion. Rows can be added, not changed."""

    def __init__(self) -> None:
        self._latest: list[tuple[Any, ...]] = []
        self._packed: list[list[Any]] = []
        """Rows before, a list of columns for every `PACKED` of them."""

    def append(self, row: tuple[Any, ...]) -> None:
        """Add a row: values in the order of `NAMES`."""
        self._latest.append(row)
        if len(self._latest) == PACKED:
            self._packed.append(_columns_of(self._latest))
            self._latest = []

    def __len__(self) -> int:
        return len(self._packed) * PACKED + len(self._latest)

    def __getitem__(self, line: int) -> dict[str, Any]:
        """A row by name; the first is number 0."""
        chunk, place = divmod(line, PACKED)
        if chunk == len(self._packed):
            return dict(zip(NAMES, self._latest[place], strict=True))
        row = [column[place] for column in self._packed[chunk]]
        return {
            name: value.item() if isinstance(value, np.generic) else value
            for name, value in zip(NAMES, row, strict=True)
        }

    def column(self, name: str) -> NDArray[Any] | list[str]:
        """All values of one name: a list of words, or an array of numbers."""
        place = NAMES.index(name)
        parts = [columns[place] for columns in self._packed]
        parts.append(_columns_of(self._latest)[place])
        if name in WORDS:
            return [word for part in parts for word in part]
        return np.concatenate(parts)


def _columns_of(rows: list[tuple[Any, ...]]) -> list[Any]:
    """Columns of rows: arrays of numbers, lists of words."""
    columns: list[Any] = []
    for place, name in enumerate(NAMES):
        values = [row[place] for row in rows]
        if name in WORDS:
            columns.append(values)
        else:
            columns.append(floats(values) if name in FLOATS else integers(values))
    return columns
