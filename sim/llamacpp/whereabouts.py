"""Which cell holds a position, and which cells of a sliding window can be taken, without a search.

Kept beside the cells of a stream that all sequences share. Tokens that are placed are noted down by
sequence and position, so that what a sequence holds is found when it leaves, and the cell that a
window leaves behind when its sequence goes on. Cells are empty or dead, and so to be taken, where
they are *open*; that is kept up while sequences grow, lose their lowest positions or leave, and
found out anew after anything else.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from sim.llamacpp.sizes import MAX_SEQ
from sim.llamacpp.spans import Counts, Ids, Positions, Spans

Cellset = NDArray[np.intp]
Mask = NDArray[np.bool_]

_MOST_POSITIONS = 1 << 17


class Whereabouts:
    """Of one stream of ``size`` cells, whose layers have a window of ``window`` positions; 0: none.

    open: per cell; good where ``is_open_known``.
    """

    __slots__ = ("_cell_of", "_mask", "_width", "is_open_known", "open", "window")

    def __init__(self, size: int, window: int) -> None:
        self._width = min(1 << (size - 1).bit_length(), _MOST_POSITIONS)
        self._mask = self._width - 1
        # A row for every id, and for the codes of `Cells.owner`, which reach the last rows.
        self._cell_of = np.empty((MAX_SEQ + 3) * self._width, np.int32)
        self.window = window
        self.open: Mask = np.empty(size if window else 0, np.bool_)
        self.is_open_known = False

    def place(self, cells: Cellset, pos: Positions | Counts, owner: Ids | Cellset) -> None:
        """Tokens were placed."""
        row = np.multiply(owner, self._width, dtype=np.intp)
        row += pos & self._mask
        self._cell_of[row] = cells
        if self.window:
            self.open[cells] = False

    def empty(self, cells: Cellset) -> None:
        """These are nobody's any more."""
        if self.window:
            self.open[cells] = True

    def forget(self) -> None:
        """Something else has happened to the cells."""
        self.is_open_known = False

    def refresh(self, find: Callable[[], Mask]) -> None:
        """Let ``find`` find out which cells are open, unless that is known."""
        if not self.is_open_known:
            self.open[:] = find()
            self.is_open_known = True

    # ---- questions

    def knows(self, spans: Spans, seq: int) -> bool:
        """Whether all cells of ``seq`` were noted down."""
        return not (
            seq in spans.moved
            or seq in spans.irregular
            or seq in spans.stale
            or spans.count[seq] > self._width
        )

    def cells_of(self, seq: int, first: int, n: int) -> Cellset:
        """The cells of ``n`` positions from ``first`` on."""
        row, begin = seq * self._width, first & self._mask
        end = begin + n
        found = self._cell_of[row + begin : row + min(end, self._width)]
        if end > self._width:
            found = np.concatenate((found, self._cell_of[row : row + end - self._width]))
        return found.astype(np.intp)

    def at(self, seqs: Cellset, positions: Counts) -> Cellset:
        """The cells of ``positions``, whose last axis is that of ``seqs``."""
        return self._cell_of[seqs * self._width + (positions & self._mask)].astype(np.intp)

    # ---- windows that move on

    def keeps_up(self, spans: Spans, steps: int) -> bool:
        """Whether it can be told what windows leave behind in so many steps."""
        is_known = spans.all_regular and not spans.moved
        return is_known and steps < self.window and steps + self.window <= self._width

    def candidates(
        self, late: Cellset, due: Cellset, start: int, stop: int
    ) -> tuple[Cellset, Cellset, Cellset]:
        """Open cells from ``start`` to ``stop``, and those of ``late`` (rising) that lie there.

        Answers all of them, the places of the late ones, and of their ``due``.
        """
        begin, end = late.searchsorted((start, stop)).tolist()
        if begin == end:
            return self.open[start:stop].nonzero()[0] + start, late[:0], due[:0]
        late, due = late[begin:end], due[begin:end]
        self.open[late] = True
        found = self.open[start:stop].nonzero()[0] + start
        self.open[late] = False
        return found, found.searchsorted(late), due

    def has_grown(self, spans: Spans, seq: int, first: int, n: int) -> None:
        """``seq`` holds ``n`` positions from ``first`` on, too: its window has moved with them."""
        count, hi = int(spans.count[seq]), int(spans.hi[seq])
        begin = max(hi + 1 - count, first + 1 - self.window)
        end = first + n + 1 - self.window
        if end > begin:
            self.open[self.cells_of(seq, begin, end - begin)] = True

    def have_grown(self, spans: Spans, seqs: Cellset, firsts: Counts) -> None:
        """Each of ``seqs`` holds the position in ``firsts``, too."""
        full = spans.count[seqs] >= self.window
        self.open[self.at(seqs[full], firsts[full] + (1 - self.window))] = True

    def will_grow(self, spans: Spans, seqs: Cellset, firsts: Counts, steps: int) -> None:
        """Each of ``seqs`` is about to get ``steps`` positions, from that in ``firsts`` on."""
        if self.keeps_up(spans, steps):
            self.open[self.passed_in_run(spans, seqs, firsts, steps)[0]] = True
        else:
            self.forget()

    def passed_in_run(
        self, spans: Spans, seqs: Cellset, firsts: Counts, steps: int
    ) -> tuple[Cellset, Cellset]:
        """Cells that windows leave in so many steps from tokens at ``firsts`` on; and when.

        That is the step after which they can be taken, counted from 0.
        """
        count = spans.count[seqs]
        near = count + steps >= self.window
        if not np.count_nonzero(near):
            return seqs[:0], seqs[:0]
        seqs, count = seqs[near], count[near]
        left = np.add.outer(np.arange(1 - self.window, steps + 1 - self.window), firsts[near])
        cells = self.at(seqs, left).ravel()
        when = np.repeat(np.arange(steps), seqs.size)
        full = count >= self.window - 1
        if np.count_nonzero(full) == full.size:
            return cells, when
        held = (left >= firsts[near] - count).ravel()
        return cells[held], when[held]
