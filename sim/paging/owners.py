"""Whose cells the blocks of a pool are: what memory maps show."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain

import numpy as np

from sim.paging.groups import Group, Table
from sim.paging.manager import BlockManager
from sim.paging.sums import Ints

FREE, SHARED, DEAD = -1, -2, -3


def owners_of(
    manager: BlockManager, spans: Mapping[int, tuple[int, int]], cells: int, asked: Ints
) -> Ints:
    """The owner of every cell of the blocks ``asked``, shape (blocks asked, cells of a block).

    spans: by sequence id, from and up to where the last step computed tokens. A cell that several
    sequences hold is ``SHARED``; one of a held block without a token that is attended to, ``DEAD``.
    """
    owners = np.full((len(asked), cells), FREE, dtype=np.int64)
    holdings = manager.holdings
    if not holdings:
        return owners
    row_of = np.full(manager.pool.size, -1)
    row_of[asked] = np.arange(len(asked))
    row_of[0] = -1
    ids = np.fromiter(holdings, dtype=np.int64, count=len(holdings))
    shared = np.zeros(manager.pool.size, dtype=bool)
    shared[list(manager.pool.sharers)] = True
    is_shared = shared[asked]
    found = []
    for group in manager.groups:
        tables = [holding.tables[group.index] for holding in holdings.values()]
        steps = [spans[id] for id in holdings]
        rows, at, cell, holder = _live_in(group, tables, steps, cells, row_of)
        owners[rows] = DEAD
        found.append((rows[at], cell, ids[holder[at]]))
    for rows, cell, owner in found:
        owners[rows, cell] = np.where(is_shared[rows], SHARED, owner)
    return owners


def _live_in(
    group: Group, tables: list[Table], spans: list[tuple[int, int]], cells: int, row_of: Ints
) -> tuple[Ints, Ints, Ints, Ints]:
    """Rows of the blocks of all tables that have one; which of these, and which cells, are live.

    Last, for every one of the blocks the index of its table.
    """
    held = [table.blocks[table.live :] for table in tables]
    lengths = np.array([len(blocks) for blocks in held], dtype=np.int64)
    count = int(lengths.sum())
    rows = row_of[np.fromiter(chain.from_iterable(held), np.int64, count)]
    holder = np.repeat(np.arange(len(tables)), lengths)
    before = np.cumsum(lengths) - lengths - [table.live for table in tables]
    places = (rows >= 0).nonzero()[0]
    rows, holder = rows[places], holder[places]
    begins = (places - before[holder]) * group.size
    if group.spec.kind == "recurrent":
        first, last = np.zeros((2, len(rows)), dtype=np.int64)
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
    return rows, at, cell, holder
