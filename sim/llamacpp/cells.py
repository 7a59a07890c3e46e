"""The cells of one stream: position, owners and pending shift of each, as arrays.

The counterpart of ``llama_kv_cells``. A cell is empty, or holds one position for a set of
sequences. Nearly all cells have one owner, so owner and position are one number and only shared
cells have their set spelled out, as bits. No operation walks cells in Python.
"""

from __future__ import annotations

import sys
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sim.llamacpp.dues import OPEN, OWNER_SHIFT, POSITION_MASK, VACANT, Contents, Dues
from sim.llamacpp.sizes import MAX_SEQ
from sim.llamacpp.spans import Ids, Positions, Spans
from sim.llamacpp.whereabouts import Whereabouts
from sim.llamacpp.window import UNBOUNDED, Window

Cellset = NDArray[np.intp]
Mask = NDArray[np.bool_]
Sets = NDArray[np.uint64]

EMPTY: Final = -1
#: Two or more owners; which ones is in `Cells.sets`.
SHARED: Final = -2
#: Used, but by no sequence: a whole-context state restored without the ids it could not name.
NOBODY: Final = -3


_POSITION_HALF: Final = 0 if sys.byteorder == "little" else 1


_ALL: Final = slice(None)


def words_of(seqs: tuple[int, ...]) -> list[int]:
    """The bits of a set of sequence ids, as 64-bit words, lowest ids first."""
    words = [0] * (max(seqs, default=0) // 64 + 1)
    for seq in seqs:
        words[seq >> 6] |= 1 << (seq & 63)
    return words


def members_of(row: Sets) -> tuple[int, ...]:
    """The sequence ids in one row of bits, ascending."""
    members = []
    for w, word in enumerate(row.tolist()):
        while word:
            lowest = word & -word
            members.append(64 * w + lowest.bit_length() - 1)
            word ^= lowest
    return tuple(members)


class Snapshot:
    """What some cells held before a change, so that it can be taken back; None: all were empty."""

    __slots__ = ("cells", "held")

    def __init__(self, cells: Cellset, held: tuple[Contents, Sets | None] | None = None) -> None:
        self.cells = cells
        self.held = held

    def highest_lost(self) -> dict[int, int]:
        """The highest position of each sequence that alone held some of the cells."""
        if self.held is None:
            return {}
        keys = np.sort(self.held[0][self.held[0] >= 0])
        owners = (keys >> OWNER_SHIFT).tolist()
        return dict(zip(owners, (keys & POSITION_MASK).tolist(), strict=True))


class Cells:
    """One stream of cells.

    held: int64, owner << 32 | position, -1 where empty; an owner is a sequence id, `EMPTY`,
    `SHARED` or `NOBODY`. shift: int32, what K rows have yet to be rotated by. sets: owner bits of
    shared cells, one row a cell, all zero for the others; None until a cell is shared. used: cells
    not empty. has_shift: whether a K-shift is pending (a flag of its own: it can be set though
    every shift is 0). dues: when a cell can be taken, by the rules of ``window``. only: the one
    sequence whose stream this is; -1 where all share it.
    """

    __slots__ = (
        "_top",
        "dues",
        "has_shift",
        "held",
        "n_shared",
        "sets",
        "shift",
        "size",
        "spans",
        "used",
        "whereabouts",
    )

    def __init__(self, size: int, window: Window = UNBOUNDED, only: int = -1) -> None:
        self.size = size
        self.held: Contents = np.full(size, VACANT, np.int64)
        self.shift = np.zeros(size, np.int32)
        self.sets: Sets | None = None
        self.n_shared = 0
        self.used = 0
        self.has_shift = False
        self.spans = Spans()
        self.whereabouts = Whereabouts(size, max(only, 0), MAX_SEQ if only < 0 else 1)
        self.dues = Dues(size, window)
        self._top = 0

    # ---- questions

    @property
    def pos(self) -> Positions:
        """The position of each cell, -1 where empty; a view."""
        return self.held.view(np.int32)[_POSITION_HALF::2]

    @property
    def owner(self) -> Ids:
        """The owner of each cell; a view."""
        return self.held.view(np.int32)[1 - _POSITION_HALF :: 2]

    @property
    def used_max_p1(self) -> int:
        """One more than the highest used cell; 0 when all are empty."""
        top = self._top
        if top == 0 or self.held[top - 1] != VACANT:
            return top
        if self.used == 0:
            self._top = 0
            return 0
        window = 64
        while True:
            start = max(0, top - window)
            used = np.flatnonzero(self.held[start:top] != VACANT)
            if used.size:
                self._top = start + int(used[-1]) + 1
                return self._top
            window *= 4

    def refresh(self) -> Spans:
        """The spans of all sequences, none of them stale."""
        if self.spans.stale:
            for seq in tuple(self.spans.stale):
                self.spans.take_from(seq, self.pos[self.holding(seq)])
        return self.spans

    def dated(self) -> Dues:
        """When cells can be taken, known for all of them."""
        dues = self.dues
        if not dues.is_known:
            dues.find(self.held, self.refresh().end)
        return dues

    def fresh(self, seq: int) -> Spans:
        """The spans, with that of ``seq`` not stale."""
        if seq in self.spans.stale:
            self.spans.take_from(seq, self.pos[self.holding(seq)])
        return self.spans

    def pos_min(self, seq: int) -> int:
        """Lowest position of ``seq``, -1 if it holds no cell."""
        return self.fresh(seq).lowest(seq)

    def pos_max(self, seq: int) -> int:
        """Highest position of ``seq``, -1 if it holds no cell."""
        return int(self.fresh(seq).end[seq]) - 1

    def count_of(self, seq: int) -> int:
        """Cells that hold ``seq``."""
        return self.fresh(seq).count_of(seq)

    def present(self) -> list[int]:
        """The sequences that hold a cell, ascending."""
        found: list[int] = np.flatnonzero(self.refresh().end).tolist()
        return found

    def holding(self, seq: int) -> Mask:
        """Which cells hold ``seq``."""
        mask = self.owner == seq
        if self.n_shared and self.sets is not None and seq >> 6 < self.sets.shape[1]:
            mask |= (self.sets[:, seq >> 6] & np.uint64(1 << (seq & 63))) != 0
        return mask

    def cells_of(self, seq: int, p0: int = 0, p1: int | None = None) -> Cellset:
        """Indices, ascending, of the cells that hold ``seq`` at a position in [p0, p1)."""
        spans = self.fresh(seq)
        lo, end = spans.lowest(seq), int(spans.end[seq])
        if p0 >= end or (p1 is not None and p1 <= lo):
            return np.empty(0, np.intp)
        mask = self.holding(seq)
        if p0 > lo:
            mask &= self.pos >= p0
        if p1 is not None and p1 < end:
            mask &= self.pos < p1
        return mask.nonzero()[0]

    def dead(self, which: Cellset | slice = _ALL) -> Mask:
        """Which cells windows have left behind: used, and yet to be taken."""
        dues = self.dated()
        mask: Mask = (dues.moment[which] <= dues.clock) & (self.held[which] != VACANT)
        return mask

    def all_of(self, seq: int) -> Cellset:
        """All cells of ``seq``, in any order."""
        spans, where = self.spans, self.whereabouts
        if self.n_shared or not where.knows(spans, seq):
            return self.cells_of(seq)
        low = int(spans.low[seq])
        return where.cells_of(seq, low, int(spans.end[seq]) - low)

    def owners_of(self, cell: int) -> tuple[int, ...]:
        """The sequences that hold ``cell``, ascending."""
        owner = int(self.owner[cell])
        if owner == SHARED:
            assert self.sets is not None
            return members_of(self.sets[cell])
        return (owner,) if owner >= 0 else ()

    # ---- placing

    def place(self, cells: Cellset, keys: Contents) -> None:
        """Fill empty ``cells`` with tokens; the caller tells what is kept beside the cells."""
        self.held[cells] = keys
        if self.has_shift:
            self.shift[cells] = 0
        self.used += cells.size
        if self._top < self.size:
            self._top = max(self._top, int(np.maximum.reduce(cells)) + 1)

    def overwrite(self, taken: Snapshot, keys: Contents) -> bool:
        """Fill cells that are empty or held by one sequence, as `place` does.

        ``taken`` are the cells with what they hold. Answers whether any sequence loses other
        positions than just its lowest, or more than counters can tell.
        """
        assert taken.held is not None
        before = taken.held[0]
        lost = before[before >= 0]
        is_clear = True
        if lost.size:
            losers, positions = lost >> OWNER_SHIFT, lost & POSITION_MASK
            is_clear = self.spans.trim_lowest(losers, positions)
            if not is_clear:
                self.spans.trim_any(losers, positions)
            self.used -= lost.size
        self.place(taken.cells, keys)
        return not is_clear

    def share(self, cells: Cellset, seqs: tuple[int, ...]) -> None:
        """Give used, so far unshared ``cells`` the owners ``seqs`` (two or more; spans apart)."""
        self._moved(set(seqs))
        words = words_of(seqs)
        sets = self.own_sets(len(words))
        self.owner[cells] = SHARED
        for w, word in enumerate(words):
            sets[cells, w] = np.uint64(word)
        self.n_shared += cells.size

    def own_sets(self, words: int) -> Sets:
        """The owner bits, with room for ids of at least ``words`` words."""
        if self.sets is None:
            self.sets = np.zeros((self.size, words), np.uint64)
        elif self.sets.shape[1] < words:
            more = np.zeros((self.size, words - self.sets.shape[1]), np.uint64)
            self.sets = np.concatenate((self.sets, more), axis=1)
        return self.sets

    def has_changed(self, seq: int) -> None:
        """Positions of ``seq`` change in other ways than by growing and losing the lowest."""
        self._moved({seq})

    def _moved(self, seqs: set[int]) -> None:
        """Cells of ``seqs`` change in other ways than `place` and `empty` do."""
        self.spans.moved |= seqs
        self.dues.forget()

    # ---- freeing

    def empty(self, cells: Cellset) -> None:
        """Empty used ``cells`` that have no owner bits; the caller keeps the spans."""
        self.held[cells] = VACANT
        self.dues.moment[cells] = OPEN
        if self.has_shift:
            self.shift[cells] = 0
        self.used -= cells.size

    def settle(self, cells: Cellset) -> None:
        """After a change of bits: ``cells`` with one owner left are shared no more."""
        assert self.sets is not None
        rows = self.sets[cells]
        single = ((rows & (rows - np.uint64(1))) == 0).all(axis=1) & ((rows != 0).sum(axis=1) == 1)
        if not single.any():
            return
        lone, bits = cells[single], rows[single]
        word = (bits != 0).argmax(axis=1)
        bit = np.log2(bits[np.arange(lone.size), word].astype(np.float64))
        self.owner[lone] = 64 * word + bit.astype(np.int64)
        self.sets[lone] = 0
        self.n_shared -= lone.size
        self.dues.forget()

    def free(self, cells: Cellset) -> None:
        """Empty used ``cells``, whoever holds them."""
        holders = self.holders(cells)
        self.spans.stale.update(holders)
        self._moved(holders if self.n_shared else set())
        if self.n_shared and self.sets is not None:
            shared = cells[self.owner[cells] == SHARED]
            self.sets[shared] = 0
            self.n_shared -= shared.size
        self.empty(cells)

    def sharers(self, shared: Cellset) -> set[int]:
        """The sequences that hold any of the ``shared`` cells."""
        assert self.sets is not None
        return set(members_of(np.bitwise_or.reduce(self.sets[shared], axis=0)))

    def holders(self, cells: Cellset) -> set[int]:
        """The sequences that hold any of ``cells``."""
        owners = set(np.unique(self.owner[cells]).tolist())
        found = {seq for seq in owners if seq >= 0}
        if SHARED in owners:
            found |= self.sharers(cells[self.owner[cells] == SHARED])
        return found

    def clear(self) -> None:
        """Empty all cells; pending shifts are dropped with them."""
        self.held.fill(VACANT)
        self.dues.moment.fill(OPEN)
        self.dues.is_known = True
        self.shift.fill(0)
        if self.sets is not None:
            self.sets.fill(0)
        self.n_shared = self.used = self._top = 0
        self.has_shift = False
        self.spans.clear()

    # ---- moving

    def move(self, src: Cellset, dst: Cellset) -> None:
        """Move used cells ``src`` to ``dst``, cells that are empty or among ``src`` themselves."""
        self._moved(self.holders(src))
        held = self.snapshot(src).held
        assert held is not None
        keys, sets = held
        shift = self.shift[src]
        self.held[src], self.shift[src] = VACANT, 0
        self.held[dst], self.shift[dst] = keys, shift
        for cells in (src, dst):
            self.dues.changed(cells, self.held[cells])
        if sets is not None:
            assert self.sets is not None
            self.sets[src] = 0
            self.sets[dst] = sets
        self._top = max(self._top, int(dst.max(initial=-1)) + 1)

    # ---- taking back

    def snapshot(self, cells: Cellset) -> Snapshot:
        """What ``cells`` hold now."""
        sets = None if self.sets is None or not self.n_shared else self.sets[cells]
        return Snapshot(cells, (self.held[cells], sets))

    def restore(self, before: Snapshot) -> None:
        """Put back what the cells of the snapshot held."""
        cells = before.cells
        if before.held is None:
            self.free(cells)
            return
        keys, sets = before.held
        holders = self.holders(cells)
        if self.sets is not None:
            self.n_shared -= int((self.owner[cells] == SHARED).sum())
            self.sets[cells] = 0
            if sets is not None:
                self.sets[cells, : sets.shape[1]] = sets
        now = self.held[cells]
        self.used += int(np.count_nonzero(keys != VACANT)) - int(np.count_nonzero(now != VACANT))
        self.held[cells] = keys
        self.dues.changed(cells, keys)
        self.n_shared += int(np.count_nonzero(keys >> OWNER_SHIFT == SHARED))
        holders |= self.holders(cells)
        self.spans.stale.update(holders)
        self._moved(holders if self.n_shared else set())
        self._top = max(self._top, int(cells.max()) + 1)

    def fill(self, pos: Positions, owner: Ids, sets: Sets | None) -> None:
        """Become the given cells, from cell 0 on (a restored whole-context state)."""
        self.clear()
        n = pos.size
        self.pos[:n] = pos
        self.owner[:n] = owner
        self.dues.changed(np.arange(n), self.held[:n])
        self.used = self._top = n
        if sets is not None:
            self.own_sets(sets.shape[1])[:n] = sets
            self.n_shared = int((owner == SHARED).sum())
        holders = self.holders(np.arange(n))
        self.spans.stale.update(holders)
        self._moved(holders)
