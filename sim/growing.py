"""Numbers appended one by one or in runs, kept in one numpy array."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray


class GrowingArray:
    """An array that doubles its room when it is full; `values` is a view of what is filled."""

    def __init__(self, dtype: DTypeLike) -> None:
        self._room = np.empty(64, dtype=dtype)
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def append(self, value: Any) -> None:
        """Add one number."""
        if self._size == len(self._room):
            self._make_room(1)
        self._room[self._size] = value
        self._size += 1

    def extend(self, values: NDArray[Any] | int | float, n: int) -> None:
        """Add ``n`` numbers: an array of that length, or one number ``n`` times."""
        if self._size + n > len(self._room):
            self._make_room(n)
        self._room[self._size : self._size + n] = values
        self._size += n

    def _make_room(self, n: int) -> None:
        room = np.empty(max(2 * len(self._room), self._size + n), dtype=self._room.dtype)
        room[: self._size] = self._room[: self._size]
        self._room = room

    @property
    def values(self) -> NDArray[Any]:
        """Everything appended so far (a view, good until the next append)."""
        return self._room[: self._size]
