"""Where the tokens of decode steps that are planned at once will go."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sim.llamacpp.batch import Decodes
from sim.llamacpp.dues import Contents

Table = NDArray[np.intp]


class CellRun:
    """A plan: step j writes position ``firsts[b] + j`` of sequence ``seqs[b]`` to ``cells[j, b]``.

    decodes: the first step. lost: what that cell held, shape as ``cells``; None in a cache without
    a window, where all were empty.
    """

    __slots__ = ("cells", "decodes", "lost", "steps")

    def __init__(self, decodes: Decodes, cells: Table, lost: Contents | None = None) -> None:
        self.decodes = decodes
        self.cells = cells
        self.lost = lost
        self.steps = len(cells)
