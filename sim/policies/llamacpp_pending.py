"""Pending work of llama.cpp's caches as the copies and shifts that a step owes."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sim.llamacpp.pending import CellMoves, KShift, StreamCopy, Update
from sim.step import Copy, Shift


class Served(NamedTuple):
    """A layer group that a cache serves. cell_bytes, k_bytes: of one cell over its layers."""

    group: int
    cell_bytes: int
    k_bytes: int


class Owed:
    """Turns updates into work on the rows of every layer group.

    served: per cache the groups it serves. sizes: per cache the cells of a stream.
    """

    def __init__(self, served: dict[str, list[Served]], sizes: dict[str, int]) -> None:
        self._served = served
        self._sizes = sizes

    def add(self, update: Update, copies: list[Copy], shifts: list[Shift]) -> None:
        """Append what ``update`` did. Shifts come last, so they follow the cells that move."""
        for copy in update.copies:
            copies += self._stream_copies(copy)
        for shift in update.shifts:
            shifts += self._shifts(shift)
        for moves in update.moves:
            copies += self._moves(moves)
            where = np.arange(self._sizes[moves.cache])
            where[moves.src] = moves.dst
            groups = {served.group for served in self._served[moves.cache]}
            for owed in shifts:
                if owed.group in groups:
                    owed.cells = where[owed.cells]

    def _stream_copies(self, copy: StreamCopy) -> list[Copy]:
        cells = np.arange(copy.cells, dtype=np.int64)
        src, dst = copy.src * copy.cells + cells, copy.dst * copy.cells + cells
        return [
            Copy("stream", served.group, src, dst, copy.cells * served.cell_bytes)
            for served in self._served[copy.cache]
        ]

    def _moves(self, moves: CellMoves) -> list[Copy]:
        kind = "compaction" if moves.by_sequence else "defrag"
        return [
            Copy(kind, served.group, moves.src, moves.dst, moves.src.size * served.cell_bytes)
            for served in self._served[moves.cache]
        ]

    def _shifts(self, shift: KShift) -> list[Shift]:
        cells = shift.cells + shift.stream * self._sizes[shift.cache]
        amounts = shift.amounts.astype(np.int64)
        return [
            Shift(served.group, cells, amounts, cells.size * served.k_bytes)
            for served in self._served[shift.cache]
        ]
