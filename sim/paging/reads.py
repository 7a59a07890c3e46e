"""What paged attention reads: whole blocks, found through the block table.

A kernel loads every block that holds a token it attends to, from the first to the last, and
follows one table entry for each. It scores live pairs only.
"""

from __future__ import annotations

import numpy as np

from sim.model import LayerGroup
from sim.paging.spec import GroupSpec
from sim.paging.sums import Ints, floors
from sim.reads import attended_in_run, pairs_before
from sim.step import Reads


def first_attended(group: LayerGroup, position: Ints) -> Ints:
    """The first position that tokens at these positions attend to."""
    if group.kind == "swa":
        return np.maximum(position - group.window + 1, 0)
    if group.kind == "chunked":
        return position // group.window * group.window
    return np.zeros_like(position)


def reads_of_step(group: LayerGroup, spec: GroupSpec, starts: Ints, ends: Ints) -> Reads:
    """Of runs of tokens ``starts[i] .. ends[i]-1``, in layers served by tables like ``spec``."""
    if group.kind == "recurrent":
        return Reads(len(starts) + int((starts > 0).sum()), 0, 0)
    if not len(starts):
        return Reads(0, 0, 0)
    size = spec.block_size
    entries = int((-(-ends // size) - first_attended(group, starts) // size).sum())
    pairs = int((pairs_before(group, ends) - pairs_before(group, starts)).sum())
    return Reads(entries * size, pairs, entries)


def reads_of_run(group: LayerGroup, spec: GroupSpec, lengths: Ints, steps: int) -> Reads:
    """Of every step of a decode run; nobody starts a new chunk during it."""
    if group.kind == "recurrent":
        return Reads(2 * len(lengths), 0, 0)
    pairs = attended_in_run(group, lengths, steps)
    size = spec.block_size
    entries = floors(lengths + size, size, steps)
    if group.kind == "swa":
        entries -= floors(lengths - group.window + 1, size, steps)
    else:
        entries -= int((first_attended(group, lengths) // size).sum())
    return Reads(entries * size, pairs, entries)
