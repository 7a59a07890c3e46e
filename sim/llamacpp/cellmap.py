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


def _starts(*same: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Where runs begin, given what must hold between an element and the one before it."""
    joined = np.logical_and.reduce(same)
    return np.flatnonzero(np.concatenate(([True], ~joined)))


def map_runs(cells: Cells) -> list[MapRun]:
    """(first cell, sequence number or `MANY`, first position, count) of rows of used cells.

    Within a run cells and positions rise by one and the owner stays.
    """
    used = np.flatnonzero(cells.owner[: cells.used_max_p1] != EMPTY)
    if used.size == 0:
        return []
    owner, pos = np.maximum(cells.owner[used], SHARED), cells.pos[used]
    owner[owner < 0] = SHARED
    starts = _starts(np.diff(used) == 1, np.diff(owner) == 0, np.diff(pos) == 1)
    counts = np.diff(starts, append=used.size)
    return [
        (first, MANY if seq < 0 else str(seq), position, count)
        for first, seq, position, count in zip(
            used[starts].tolist(),
            owner[starts].tolist(),
            pos[starts].tolist(),
            counts.tolist(),
            strict=True,
        )
    ]


def owner_runs(state: StreamState | None) -> list[OwnerRun]:
    """(all owners, first position, count) of saved cells in order, whatever lay between them."""
    if state is None or state.pos.size == 0:
        return []
    same = [np.diff(state.owner) == 0, np.diff(state.pos) == 1]
    if state.sets is not None:
        same.append((state.sets[1:] == state.sets[:-1]).all(axis=1))
    starts = _starts(*same)
    counts = np.diff(starts, append=state.pos.size).tolist()
    runs = []
    for start, count in zip(starts.tolist(), counts, strict=True):
        owner = int(state.owner[start])
        seqs: tuple[int, ...] = (owner,) if owner >= 0 else ()
        if owner == SHARED:
            assert state.sets is not None
            seqs = members_of(state.sets[start])
        runs.append((seqs, int(state.pos[start]), count))
    return runs
