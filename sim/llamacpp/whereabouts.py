"""Which cell holds a position, without a search.

Kept beside the cells of a stream. Tokens that are placed are noted down by sequence and position,
so that the cells of a sequence are known when it leaves or goes on.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from sim.llamacpp.spans import Counts, Spans

Cellset = NDArray[np.intp]

_MOST_POSITIONS: Final = 1 << 17


class Whereabouts:
    """Of one stream of ``size`` cells, which ``ids`` sequence ids from ``lowest_id`` on may hold.

    Positions are taken modulo ``width``, a power of two.
    """

    __slots__ = ("_cell_of", "_lowest_id", "_mask", "width")

    def __init__(
        self, size: int, lowest_id: int, ids: int, most_positions: int = _MOST_POSITIONS
    ) -> None:
        self.width = min(1 << (size - 1).bit_length(), most_positions)
        self._mask = self.width - 1
        self._lowest_id = lowest_id
        # As wide as indices are: converting them would cost more than the memory, little of which
        # is ever touched.
        self._cell_of: Cellset = np.empty(ids * self.width, np.intp)

    def rows_of(self, seqs: Cellset, positions: Counts) -> Counts:
        """Where the cells of ``positions`` are noted, whose last axis is that of ``seqs``."""
        return (positions & self._mask) + (seqs - self._lowest_id) * self.width

    def note(self, rows: Counts, cells: Cellset) -> None:
        """Tokens whose cells are noted at ``rows`` were placed."""
        self._cell_of[rows] = cells

    def note_run(self, seq: int, first: int, cells: Cellset) -> None:
        """Tokens of ``seq`` at positions from ``first`` on were placed."""
        row, begin = (seq - self._lowest_id) * self.width, first & self._mask
        end = begin + cells.size
        if end <= self.width:
            self._cell_of[row + begin : row + end] = cells
        else:
            self._cell_of[(np.arange(begin, end) & self._mask) + row] = cells

    def knows(self, spans: Spans, seq: int) -> bool:
        """Whether all cells of ``seq`` were noted down."""
        if seq in spans.moved or not spans.is_regular(seq):
            return False
        return spans.count_of(seq) <= self.width

    def cells_of(self, seq: int, first: int, n: int) -> Cellset:
        """The cells of ``n`` positions from ``first`` on; good until others are noted."""
        row, begin = (seq - self._lowest_id) * self.width, first & self._mask
        end = begin + n
        found = self._cell_of[row + begin : row + min(end, self.width)]
        if end > self.width:
            return np.concatenate((found, self._cell_of[row : row + end - self.width]))
        return found
