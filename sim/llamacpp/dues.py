"""When each cell of a stream can be taken: at once, at a foreseeable moment, or once it is freed.

A cell can be taken if it is empty or, in a cache with a window, if one sequence alone holds it at a
position that its next token will not see. Moments are counted by a clock. Sequences that decode
together get a token each with every tick, and a token moves the window of its sequence on by a
position; so the moment at which a window leaves a cell behind is known when the cell is written,
and stays the same for as long as the sequence keeps pace with the clock. The cells of one that
does not are dated anew.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from sim.llamacpp.spans import Counts
from sim.llamacpp.window import Window

Cellset = NDArray[np.intp]
Mask = NDArray[np.bool_]
#: What cells hold: owner << `OWNER_SHIFT` | position, `VACANT` where empty.
Contents = NDArray[np.int64]

VACANT: Final = np.array(-1)
OWNER_SHIFT: Final = 32
POSITION_MASK: Final = (1 << OWNER_SHIFT) - 1

#: Arrays, which cost NumPy less than numbers of Python.
OPEN: Final = np.array(0, np.int32)
NEVER: Final = np.array(1 << 30, np.int32)
_LATEST: Final = 1 << 29


class Dues:
    """Of one stream of ``size`` cells, whose layers have this window.

    moment: int32, per cell: it can be taken when the clock is at that or later. Good where
    ``is_known``. stride: about how many cells one has lately had to look at to find one that can be
    taken.
    """

    __slots__ = ("clock", "is_known", "moment", "stride", "window")

    def __init__(self, size: int, window: Window) -> None:
        self.window = window
        self.moment: NDArray[np.int32] = np.full(size, OPEN, np.int32)
        self.clock = 0
        self.is_known = True
        self.stride = 1.0

    def find(self, held: Contents, ends: Counts) -> None:
        """Find out all moments, from what cells hold and where the positions of sequences end."""
        self.clock = 0
        self.is_known = True
        moment = self.moment
        moment.fill(NEVER)
        if self.window.bounded:
            alone = (held >= 0).nonzero()[0]
            seers = self.window.last_seer(held[alone] & POSITION_MASK)
            moment[alone] = seers + 1 - ends[held[alone] >> OWNER_SHIFT]
        moment[held == VACANT] = OPEN

    def changed(self, cells: Cellset, held: Contents) -> None:
        """``cells`` now hold something else, or sequences have other positions."""
        if self.window.bounded:
            self.is_known = False
        else:
            self.moment[cells] = np.where(held == VACANT, OPEN, NEVER)

    def forget(self) -> None:
        """Windows have moved in a way that is not followed up."""
        if self.window.bounded:
            self.is_known = False

    def can_be_taken(self, start: int, stop: int) -> Mask:
        """Which of the cells [start, stop)."""
        mask: Mask = self.moment[start:stop] <= self.clock
        return mask

    def reach_for(self, n: int) -> int:
        """How many cells to look at to find about ``n``."""
        return int(1.5 * self.stride * n) + 256

    def learn(self, looked_at: int, found: int) -> None:
        """So many cells were looked at, and so many of them found."""
        if looked_at >= 64:
            self.stride += (looked_at / (found + 1) - self.stride) / 4

    # ---- tokens that are placed

    def pass_by(self, ticks: int) -> None:
        """So many tokens went to each of those that keep pace."""
        self.clock += ticks
        if self.clock > _LATEST:
            self.is_known = False

    def date_run(self, cells: Cellset, first: int, end: int) -> None:
        """``cells`` hold the positions from ``first`` on of a sequence that ends at ``end``."""
        positions = np.arange(first, first + cells.size, dtype=np.int32)
        self.moment[cells] = self.window.last_seer(positions) + (self.clock + 1 - end)

    def date_decodes(self, cells: Cellset, positions: Counts) -> None:
        """The last ticks have put tokens at these ``positions`` into ``cells``.

        positions: shape (ticks, sequences); cells: the same, flat.
        """
        window, clock, steps = self.window, self.clock, len(positions)
        if window.kind != "standard":
            ends = positions[-1] + 1
            self.moment[cells] = (window.last_seer(positions) + (clock + 1 - ends)).ravel()
        elif steps == 1:
            self.moment[cells] = clock + (window.n - 1)
        else:
            after = clock + window.n
            moments = np.arange(after - steps, after, dtype=np.int32)
            self.moment[cells] = moments.repeat(cells.size // steps)
