"""Whose cells the blocks of a pool are: what memory maps show."""

from __future__ import annotations

from bisect import bisect_right
from struct import Struct
from typing import Any

import numpy as np

from sim.owners import FREE, SHARED, UNUSED
from sim.paging.groups import Blocks, Group
from sim.paging.manager import BlockManager
from sim.paging.occupancy import Occupancy
from sim.paging.sums import Ints
from sim.sequence import Sequence


class _Seen:
    """The cells of a table that are asked for, as far as it was looked at.

    places: of these cells in a drawing. entries: of the table that they are in. ends: tokens of
    the sequence up to the end of each. length: entries that were looked at.
    """

    def __init__(self, blocks: Blocks) -> None:
        self.blocks = blocks
        self.length = 0
        self.places: list[int] = []
        self.entries: list[int] = []
        self.ends: list[int] = []

    def leave_out_nulls(self) -> None:
        """Forget what the sequence no longer holds."""
        blocks = self.blocks
        held = [i for i, entry in enumerate(self.entries) if blocks[entry]]
        if len(held) < len(self.entries):
            self.places = [self.places[i] for i in held]
            self.entries = [self.entries[i] for i in held]
            self.ends = [self.ends[i] for i in held]


class Map:
    """Draws the owners of some cells again and again.

    cells: their addresses, block after block, block 1 first. A cell that several
    sequences hold is ``SHARED``; one of a held block without a token that is attended to,
    ``UNUSED``. What was found in a block table is kept as long as the sequence has it, so a drawing
    costs no more than the sequences and the cells that are theirs.
    """

    def __init__(self, manager: BlockManager, occupancy: Occupancy, cells: Ints) -> None:
        self.cells = cells
        self._manager = manager
        self._occupancy = occupancy
        self._empty: list[Any] = [FREE] * len(cells)
        self._asked: dict[int, list[tuple[int, int]]] = {}
        """Of every block with such cells: place in a drawing, and number in the block, of each."""
        for place in np.argsort(cells, kind="stable").tolist():
            block, number = divmod(int(cells[place]), occupancy.block_cells)
            self._asked.setdefault(block + 1, []).append((place, number))
        self._is_asked = [block in self._asked for block in range(manager.pool.size)]
        self._packed = Struct(f"{len(cells)}q")
        self._seen: dict[int, list[_Seen]] = {}

    def draw(self, seqs: dict[int, Sequence]) -> Ints:
        """The owners now; ``seqs``: all that hold anything."""
        owners, known, groups = self._empty[:], self._seen, self._manager.groups
        holdings = self._manager.holdings
        for owner, holding in holdings.items():
            seen = known.get(owner)
            if seen is None:
                seen = known[owner] = [_Seen([]) for _ in groups]
            name: Any = owner  # compiled code boxes it once
            tables = holding.tables
            for index, group in enumerate(groups):
                own, blocks = seen[index], tables[index].blocks
                if own.length != len(blocks) or own.blocks is not blocks:
                    if own.blocks is not blocks:
                        own = seen[index] = _Seen(blocks)
                    self._look_on(own, group.size)
                if not own.places:
                    continue
                if own.ends[-1] <= holding.end and not group.frees:
                    for place in own.places:
                        owners[place] = name
                else:
                    start, end = self._occupancy.span_of(seqs[owner])
                    _paint(owners, own, group, name, start, end)
        if len(known) > len(holdings):
            for owner in known.keys() - holdings.keys():
                del known[owner]
        sharers = self._manager.pool.sharers
        if sharers:
            for block in self._asked.keys() & sharers.keys():
                for place, _ in self._asked[block]:
                    if owners[place] >= 0:
                        owners[place] = SHARED
        return np.frombuffer(self._packed.pack(*owners), dtype=np.int64)

    def _look_on(self, seen: _Seen, size: int) -> None:
        """Find what was not there the last time."""
        is_asked, cells = self._is_asked, self._occupancy.block_cells
        entry = seen.length
        for block in seen.blocks[entry:]:
            if is_asked[block]:
                for place, number in self._asked[block]:
                    seen.places.append(place)
                    seen.entries.append(entry)
                    seen.ends.append(entry * size + (number + 1) * size // cells)
            entry += 1
        seen.length = entry


def _paint(owners: list[Any], seen: _Seen, group: Group, owner: Any, start: int, end: int) -> None:
    """Put ``owner``, whose tokens ``start .. end - 1`` are computed, at the places of a table."""
    if group.frees:
        seen.leave_out_nulls()
    places, ends = seen.places, seen.ends
    first, last = 0, len(places)
    if group.spec.kind != "recurrent":
        first = bisect_right(ends, group.skipped(start)) if group.frees else 0
        last = bisect_right(ends, end)
    live = places[first:last]
    for place in live:
        owners[place] = owner
    if len(live) < len(places):
        for place in places:
            if owners[place] == FREE:
                owners[place] = UNUSED


def owners_of(manager: BlockManager, occupancy: Occupancy, seqs: dict[int, Sequence]) -> Ints:
    """The owner of every cell of the pool, from block 1 on, as a `Map` draws it.

    ``seqs``: all that hold anything.
    """
    cells = occupancy.block_cells
    owners = np.full((manager.pool.size, cells), FREE, dtype=np.int64)
    for owner, holding in manager.holdings.items():
        start, end = occupancy.span_of(seqs[owner])
        for group, table in zip(manager.groups, holding.tables, strict=True):
            for entry, block in enumerate(table.blocks):
                if block:
                    first, last = _live_cells(group, entry, start, end, cells)
                    row = owners[block]
                    row[row == FREE] = UNUSED
                    row[first:last] = SHARED if block in manager.pool.sharers else owner
    return owners[1:].ravel()


def _live_cells(group: Group, entry: int, start: int, end: int, cells: int) -> tuple[int, int]:
    """Which cells of a table entry are live, from and up to, as tokens start .. end - 1 run."""
    if group.spec.kind == "recurrent":
        return 0, cells
    size, begin = group.size, entry * group.size
    first = min(max(group.skipped(start) - begin, 0), size)
    last = min(max(end - begin, first), size)
    return first * cells // size, last * cells // size
