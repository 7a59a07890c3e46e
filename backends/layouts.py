"""How attention finds the cells of a sequence: the part of a policy that a kernel sees.

Four ways, by what is read for a query. ``range``: from a sequence's first cell to its last one.
``scan``: every cell of an array that sequences share, up to the highest that is used, dead cells
and other sequences' included (llama.cpp's ``n_kv``). ``table``: whole blocks, found through a
block table. ``cells``: each cell by itself. What is read and must not count is masked.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from backends.shape import GroupShape, first_visible, visible
from sim.errors import IntegrityError

SCAN_PAD = 256
"""Cells in whose multiples llama.cpp scans (``llama_kv_cache::get_n_kv``)."""


@dataclass(frozen=True)
class Held:
    """One sequence of a batch: the positions of its queries, and where its K/V lives.

    positions: of the rows it holds, rising. cells: the cell of each.
    """

    queries: NDArray[np.int64]
    positions: NDArray[np.int64]
    cells: NDArray[np.int64]


@dataclass(frozen=True)
class Reading:
    """One attention call: which queries (rows of the batch), the cells read, what counts.

    index: a slice of the store or an array of cells. mask: (queries, cells). table: the blocks
    of ``block_size`` cells that ``index`` spells out, where there are any.
    """

    queries: slice
    index: Any
    mask: NDArray[np.bool_]
    table: NDArray[np.int64] | None = None
    block_size: int = 1


Layout: TypeAlias = Callable[[GroupShape, SequenceOf[Held]], list[Reading]]


def cells(shape: GroupShape, batch: SequenceOf[Held]) -> list[Reading]:
    """Exactly the cells of each sequence, one by one."""
    return [
        Reading(rows, held.cells, visible(np, shape, held.queries, held.positions))
        for rows, held in _rows_of(batch)
    ]


def ranges(shape: GroupShape, batch: SequenceOf[Held]) -> list[Reading]:
    """For each sequence the range that its cells span."""
    return [_range_of(shape, rows, held) for rows, held in _rows_of(batch)]


def _range_of(shape: GroupShape, rows: slice, held: Held) -> Reading:
    first, end = (int(held.cells.min()), int(held.cells.max()) + 1) if held.cells.size else (0, 0)
    owners = np.full(end - first, -1, dtype=np.int64)
    owners[held.cells - first] = held.positions
    return Reading(rows, slice(first, end), visible(np, shape, held.queries, owners))


def scan_of(stream_cells: int) -> Layout:
    """All queries of a stream score the same cells: from its first one to the highest used one."""

    def scan(shape: GroupShape, batch: SequenceOf[Held]) -> list[Reading]:
        readings = []
        for rows, stream, members in _streams_of(batch, stream_cells):
            base = stream * stream_cells
            ends = (int(each.cells.max()) + 1 - base for each in members if each.cells.size)
            top = max(ends, default=0)
            n_kv = min(stream_cells, -(-max(top, 1) // SCAN_PAD) * SCAN_PAD)
            mask = np.zeros((rows.stop - rows.start, n_kv), dtype=bool)
            done = 0
            for held in members:
                mine = slice(done, done + len(held.queries))
                mask[mine, held.cells - base] = visible(np, shape, held.queries, held.positions)
                done = mine.stop
            readings.append(Reading(rows, slice(base, base + n_kv), mask))
        return readings

    return scan


def tables_of(block_size: int) -> Layout:
    """Whole blocks through a table; leading blocks that no query sees any more are left out."""

    def tables(shape: GroupShape, batch: SequenceOf[Held]) -> list[Reading]:
        readings = []
        for rows, held in _rows_of(batch):
            table = block_table(held, block_size)
            first = first_visible(shape, int(held.queries.min())) // block_size
            blocks = table[first:]
            index = (blocks[:, None] * block_size + np.arange(block_size)).ravel()
            positions = np.arange(first * block_size, first * block_size + len(index))
            positions[positions > held.queries.max()] = -1
            mask = visible(np, shape, held.queries, positions)
            readings.append(Reading(rows, index, mask, blocks, block_size))
        return readings

    return tables


def block_table(held: Held, block_size: int) -> NDArray[np.int64]:
    """The block of every ``block_size`` positions, 0 where the sequence holds none.

    Raises `IntegrityError` where a position does not lie at its place within a block, or two
    blocks would be needed for the same positions.
    """
    table = np.zeros(int(held.positions.max(initial=-1)) // block_size + 1, dtype=np.int64)
    blocks, places = np.divmod(held.cells, block_size)
    entries = held.positions // block_size
    table[entries] = blocks
    if (places != held.positions % block_size).any() or (table[entries] != blocks).any():
        raise IntegrityError("cells of a sequence do not form blocks")
    return table


def _rows_of(batch: SequenceOf[Held]) -> list[tuple[slice, Held]]:
    ends = np.cumsum([len(held.queries) for held in batch])
    return [
        (slice(int(end) - len(held.queries), int(end)), held)
        for end, held in zip(ends, batch, strict=True)
    ]


def _streams_of(batch: SequenceOf[Held], stream_cells: int) -> list[tuple[slice, int, list[Held]]]:
    """Neighbours of the batch that live in the same stream."""
    found: list[tuple[slice, int, list[Held]]] = []
    for rows, held in _rows_of(batch):
        stream = int(held.cells[0]) // stream_cells if held.cells.size else -1
        if found and found[-1][1] == stream:
            before, _, members = found[-1]
            found[-1] = (slice(before.start, rows.stop), stream, [*members, held])
        else:
            found.append((rows, stream, [held]))
    return found
