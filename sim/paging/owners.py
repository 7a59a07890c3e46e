"""Whose cells the blocks of a pool are: what memory maps show."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from sim.paging.groups import Group, Table
from sim.paging.manager import BlockManager
from sim.paging.sums import Ints

FREE, SHARED, DEAD = -1, -2, -3


def owners_of(
    manager: BlockManager,
    spans: Mapping[int, tuple[int, int]],
    cells: int,
    wanted: NDArray[np.bool_],
) -> NDArray[np.int64]:
    """The owner of every cell, shape (blocks, cells of a block), the null block included.

    spans: by sequence id, from and up to where the last step computed tokens. A cell that several
    sequences hold is ``SHARED``; one of a held block without a token that is attended to, ``DEAD``.
    wanted: whether a block is looked at; the cells of others are called free.
    """
    owners = np.full((manager.pool.size, cells), FREE, dtype=np.int64)
    holdings = manager.holdings
    if not holdings:
        return owners
    ids = np.fromiter(holdings, dtype=np.int64, count=len(holdings))
    shared = np.zeros(manager.pool.size, dtype=bool)
    shared[list(manager.pool.sharers)] = True
    found = []
    for group in manager.groups:
        tables = [holding.tables[group.index] for holding in holdings.values()]
        steps = [spans[id] for id in holdings]
        blocks, at, cell, holder = _live_in(group, tables, steps, cells, wanted)
        owners[blocks] = DEAD
        found.append((blocks[at], cell, ids[holder[at]]))
    for blocks, cell, owner in found:
        owners[blocks, cell] = np.where(shared[blocks], SHARED, owner)
    return owners


def _live_in(
    group: Group,
    tables: list[Table],
    spans: list[tuple[int, int]],
    cells: int,
    wanted: NDArray[np.bool_],
) -> tuple[Ints, Ints, Ints, Ints]:
    """Wanted blocks of all tables; which of these, and which cells of them, are live.

    Last, for every one of the blocks the index of its table.
    """
    held = [table.blocks[table.live :] for table in tables]
    lengths = np.array([len(blocks) for blocks in held], dtype=np.int64)
    blocks = np.array([block for blocks in held for block in blocks], dtype=np.int64)
    holder = np.repeat(np.arange(len(tables)), lengths)
    before = np.cumsum(lengths) - lengths - [table.live for table in tables]
    begins = (np.arange(len(blocks)) - before[holder]) * group.size
    asked = wanted[blocks] & (blocks > 0)
    blocks, holder, begins = blocks[asked], holder[asked], begins[asked]
    if group.spec.kind == "recurrent":
        first, last = np.zeros((2, len(blocks)), dtype=np.int64)
        last += group.size
    else:
        skipped = np.array([group.skipped(start) for start, _ in spans], dtype=np.int64)
        ends = np.array([end for _, end in spans], dtype=np.int64)
        first = np.minimum(np.maximum(skipped[holder] - begins, 0), group.size)
        last = np.minimum(np.maximum(ends[holder] - begins, first), group.size)
    cell = np.arange(cells)
    live = (cell >= (first * cells // group.size)[:, np.newaxis]) & (
        cell < (last * cells // group.size)[:, np.newaxis]
    )
    at, cell = live.nonzero()
    return blocks, at, cell, holder
