"""The cells of one stream: position, owners and pending shift of each, as arrays.

The counterpart of ``llama_kv_cells``. A cell is empty, or holds one position for a set of
sequences. Nearly all cells have one owner, so the owner is one int16 and only shared cells have
their set spelled out, as bits. No operation walks cells in Python.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sim.llamacpp.spans import Ids, Positions, Spans
from sim.llamacpp.whereabouts import Whereabouts

Cellset = NDArray[np.intp]
Mask = NDArray[np.bool_]
Sets = NDArray[np.uint64]

EMPTY: Final = -1
#: Two or more owners; which ones is in `Cells.sets`.
SHARED: Final = -2
#: Used, but by no sequence: a whole-context state restored without the ids it could not name.
NOBODY: Final = -3


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

    def __init__(
        self, cells: Cellset, held: tuple[Positions, Ids, Sets | None] | None = None
    ) -> None:
        self.cells = cells
        self.held = held


class Lost(NamedTuple):
    """Sequences that lost positions, ids ascending, and the highest that each of them lost.

    is_clear: whether these were all that they had below it, with something left above.
    """

    seqs: Cellset
    highest: Positions
    is_clear: bool


class Cells:
    """One stream of cells.

    pos: int32, -1 where empty. owner: int16, a sequence id, `EMPTY`, `SHARED` or `NOBODY`.
    shift: int32, what K rows have yet to be rotated by. sets: owner bits of shared cells, one row a
    cell, all zero for the others; None until a cell is shared. used: cells not empty. has_shift:
    whether a K-shift is pending (a flag of its own: it can be set though every shift is 0).
    whereabouts: kept where sequences share the stream.
    """

    __slots__ = (
        "_top",
        "has_shift",
        "n_shared",
        "owner",
        "pos",
        "sets",
        "shift",
        "size",
        "spans",
        "used",
        "whereabouts",
    )

    def __init__(self, size: int) -> None:
        self.size = size
        self.pos = np.full(size, -1, np.int32)
        self.owner = np.full(size, EMPTY, np.int16)
        self.shift = np.zeros(size, np.int32)
        self.sets: Sets | None = None
        self.n_shared = 0
        self.used = 0
        self.has_shift = False
        self.spans = Spans()
        self.whereabouts: Whereabouts | None = None
        self._top = 0

    # ---- questions

    @property
    def used_max_p1(self) -> int:
        """One more than the highest used cell; 0 when all are empty."""
        top = self._top
        if top == 0 or self.owner[top - 1] != EMPTY:
            return top
        if self.used == 0:
            self._top = 0
            return 0
        window = 64
        while True:
            start = max(0, top - window)
            used = np.flatnonzero(self.owner[start:top] != EMPTY)
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
        return int(self.fresh(seq).hi[seq])

    def count_of(self, seq: int) -> int:
        """Cells that hold ``seq``."""
        return int(self.fresh(seq).count[seq])

    def present(self) -> list[int]:
        """The sequences that hold a cell, ascending."""
        found: list[int] = np.flatnonzero(self.refresh().count).tolist()
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
        lo, hi = spans.lowest(seq), int(spans.hi[seq])
        if spans.count[seq] == 0 or p0 > hi or (p1 is not None and p1 <= lo):
            return np.empty(0, np.intp)
        mask = self.holding(seq)
        if p0 > lo:
            mask &= self.pos >= p0
        if p1 is not None and p1 <= hi:
            mask &= self.pos < p1
        return mask.nonzero()[0]

    def all_of(self, seq: int) -> Cellset:
        """All cells of ``seq``, in any order."""
        spans, where = self.spans, self.whereabouts
        if where is None or self.n_shared or not where.knows(spans, seq):
            return self.cells_of(seq)
        count = int(spans.count[seq])
        return where.cells_of(seq, int(spans.hi[seq]) + 1 - count, count)

    def owners_of(self, cell: int) -> tuple[int, ...]:
        """The sequences that hold ``cell``, ascending."""
        owner = int(self.owner[cell])
        if owner == SHARED:
            assert self.sets is not None
            return members_of(self.sets[cell])
        return (owner,) if owner >= 0 else ()

    # ---- placing

    def place(
        self, cells: Cellset, pos: Positions | NDArray[np.int64], owner: Ids | Cellset
    ) -> None:
        """Fill empty ``cells`` with tokens; the caller keeps the spans (`Spans.append`)."""
        self.pos[cells] = pos
        self.owner[cells] = owner
        if self.has_shift:
            self.shift[cells] = 0
        self.used += cells.size
        if self.whereabouts is not None:
            self.whereabouts.place(cells, pos, owner)
        if self._top < self.size:
            self._top = max(self._top, int(np.maximum.reduce(cells)) + 1)

    def overwrite(self, taken: Snapshot, pos: Positions, owner: Ids) -> Lost | None:
        """Fill cells that are empty or held by one sequence, as `place` does.

        ``taken`` are the cells with what they hold. None where they were empty.
        """
        assert taken.held is not None
        positions, before, _ = taken.held
        order = before.argsort(kind="stable")
        before = before[order]
        lost = None
        if before[-1] != EMPTY:
            breaks = (before[1:] != before[:-1]).nonzero()[0]
            begins = np.zeros(breaks.size + 1, np.intp)
            begins[1:] = breaks + 1
            counts = np.empty_like(begins)
            counts[:-1] = begins[1:]
            counts[-1] = before.size
            counts -= begins
            losers = before[begins].astype(np.intp)
            highest = np.maximum.reduceat(positions[order], begins)
            if losers[0] == EMPTY:
                losers, counts, highest = losers[1:], counts[1:], highest[1:]
            lost = Lost(losers, highest, self.spans.trim_low(losers, counts, highest))
            self.used -= int(counts.sum())
        self.place(taken.cells, pos, owner)
        return lost

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
        if self.whereabouts is not None:
            self.spans.moved |= seqs
            self.whereabouts.forget()

    # ---- freeing

    def empty(self, cells: Cellset) -> None:
        """Empty used ``cells`` that have no owner bits; the caller keeps the spans."""
        self.pos[cells] = -1
        self.owner[cells] = EMPTY
        if self.has_shift:
            self.shift[cells] = 0
        self.used -= cells.size
        if self.whereabouts is not None:
            self.whereabouts.empty(cells)

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
        self.pos.fill(-1)
        self.owner.fill(EMPTY)
        self.shift.fill(0)
        if self.sets is not None:
            self.sets.fill(0)
        self.n_shared = self.used = self._top = 0
        self.has_shift = False
        self.spans.clear()
        if self.whereabouts is not None:
            self.whereabouts.forget()

    # ---- moving

    def move(self, src: Cellset, dst: Cellset) -> None:
        """Move used cells ``src`` to ``dst``, cells that are empty or among ``src`` themselves."""
        self._moved(self.holders(src))
        held = self.snapshot(src).held
        assert held is not None
        pos, owner, sets = held
        shift = self.shift[src]
        self.pos[src], self.owner[src], self.shift[src] = -1, EMPTY, 0
        self.pos[dst], self.owner[dst], self.shift[dst] = pos, owner, shift
        if sets is not None:
            assert self.sets is not None
            self.sets[src] = 0
            self.sets[dst] = sets
        self._top = max(self._top, int(dst.max(initial=-1)) + 1)

    # ---- taking back

    def snapshot(self, cells: Cellset) -> Snapshot:
        """What ``cells`` hold now."""
        sets = None if self.sets is None or not self.n_shared else self.sets[cells]
        return Snapshot(cells, (self.pos[cells], self.owner[cells], sets))

    def restore(self, before: Snapshot) -> None:
        """Put back what the cells of the snapshot held."""
        cells = before.cells
        if before.held is None:
            self.free(cells)
            return
        pos, owner, sets = before.held
        holders = self.holders(cells)
        if self.sets is not None:
            self.n_shared -= int((self.owner[cells] == SHARED).sum())
            self.sets[cells] = 0
            if sets is not None:
                self.sets[cells, : sets.shape[1]] = sets
        self.used += int((owner != EMPTY).sum()) - int((self.owner[cells] != EMPTY).sum())
        self.pos[cells] = pos
        self.owner[cells] = owner
        self.n_shared += int((owner == SHARED).sum())
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
        self.used = self._top = n
        if sets is not None:
            self.own_sets(sets.shape[1])[:n] = sets
            self.n_shared = int((owner == SHARED).sum())
        holders = self.holders(np.arange(n))
        self.spans.stale.update(holders)
        self._moved(holders)
