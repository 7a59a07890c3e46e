"""Cells as a few runs: how a cache is shown, compared and drawn."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sim.llamacpp.cells import EMPTY, SHARED, Cells, members_of
from sim.llamacpp.state import StreamState

#: Stands for a cell that not exactly one sequence holds.
MANY = "M"

MapRun = tuple[int, str, int, int]
OwnerRun = tuple[tuple[int, ...], int, int]


def _runs(joined: NDArray[np.bool_]) -> tuple[NDArray[np.intp], list[int]]:
    """Where runs begin and how long they are, given which elements go on the one before them."""
    breaks = (~joined).nonzero()[0] + 1
    starts = np.zeros(breaks.size + 1, np.intp)
    starts[1:] = breaks
    ends = [*breaks.tolist(), joined.size + 1]
    return starts, [end - start for start, end in zip(starts.tolist(), ends, strict=True)]


def map_runs(cells: Cells) -> list[MapRun]:
    """(first cell, sequence number or `MANY`, first position, count) of rows of used cells.

    Within a run cells and positions rise by one and the owner stays.
    """
    used = (cells.owner[: cells.used_max_p1] != EMPTY).nonzero()[0]
    if used.size == 0:
        return []
    owner, pos = cells.owner[used], cells.pos[used]
    owner[owner < 0] = SHARED
    joined = (owner[1:] == owner[:-1]) & (used[1:] - used[:-1] == 1) & (pos[1:] - pos[:-1] == 1)
    starts, counts = _runs(joined)
    return [
        (first, MANY if seq < 0 else str(seq), position, count)
        for first, seq, position, count in zip(
            used[starts].tolist(), owner[starts].tolist(), pos[starts].tolist(), counts, strict=True
        )
    ]


def owner_runs(state: StreamState | None) -> list[OwnerRun]:
    """(all owners, first position, count) of saved cells in order, whatever lay between them."""
    if state is None or state.pos.size == 0:
        return []
    owner, pos, sets = state.owner, state.pos, state.sets
    joined = (owner[1:] == owner[:-1]) & (pos[1:] - pos[:-1] == 1)
    if sets is not None:
        joined &= (sets[1:] == sets[:-1]).all(axis=1)
    starts, counts = _runs(joined)
    runs = []
    for start, count in zip(starts.tolist(), counts, strict=True):
        seqs: tuple[int, ...] = (int(owner[start]),) if owner[start] >= 0 else ()
        if owner[start] == SHARED:
            assert sets is not None
            seqs = members_of(sets[start])
        runs.append((seqs, int(pos[start]), count))
    return runs
