"""The cells of a recurrent cache and how ``find_slot`` arranges them.

There are as many cells as sequences, so plain lists do. A ubatch needs the states of its sequences
in consecutive cells, in order; cells are swapped until they are.
"""

from __future__ import annotations

from sim.llamacpp.cells import EMPTY, SHARED


class RecurrentCells:
    """pos, owners (bits of sequence ids) and state source of each cell; the cell (tail) of each id.

    sources: the cell whose state this one continues, `EMPTY` for a new one.
    rolled_back: per sequence, how many tokens its state is to fall back before it is used again.
    head, used: where the search for an empty cell starts, and cells in use at the last search.
    """

    __slots__ = ("head", "owners", "pos", "rolled_back", "size", "sources", "tails", "used")

    def __init__(self, size: int) -> None:
        self.size = size
        self.pos = [-1] * size
        self.owners = [0] * size
        self.sources = [EMPTY] * size
        self.tails = [EMPTY] * size
        self.rolled_back = [0] * size
        self.head = self.used = 0

    def copy(self) -> RecurrentCells:
        """An independent copy."""
        other = RecurrentCells(0)
        other.size = self.size
        for name in ("pos", "owners", "sources", "tails", "rolled_back"):
            setattr(other, name, list(getattr(self, name)))
        other.head, other.used = self.head, self.used
        return other

    def count_used(self) -> int:
        """Cells with an owner."""
        return self.size - self.owners.count(0)

    def owner_of_each(self) -> list[int]:
        """Per cell its owner's id, `EMPTY`, or `SHARED`."""
        return [
            EMPTY if not mask else SHARED if mask & (mask - 1) else mask.bit_length() - 1
            for mask in self.owners
        ]

    def is_settled(self, seqs: list[int]) -> bool:
        """Whether a ubatch of one token of each of ``seqs`` would move no state.

        Each has a cell of its own, in order from the first on, with its own state in it.
        """
        first = self.tails[seqs[0]]
        return first != EMPTY and all(
            self.tails[seq] == cell
            and self.owners[cell] == 1 << seq
            and self.sources[cell] == cell
            and not self.rolled_back[seq]
            for cell, seq in enumerate(seqs, first)
        )

    def release(self, seq: int) -> None:
        """``seq`` has no state any more; its cell is emptied if nobody else holds it."""
        tail = self.tails[seq]
        if tail == EMPTY:
            return
        self.tails[seq] = EMPTY
        self.owners[tail] &= ~(1 << seq)
        if not self.owners[tail]:
            self.pos[tail] = -1
            self.sources[tail] = EMPTY
            self.used -= 1
            self.head = min(self.head, tail)

    def share(self, src: int, dst: int) -> None:
        """``dst`` gives up its state and shares that of ``src``, if there is one."""
        head = self.head
        self.release(dst)
        self.head = head
        tail = self.tails[src]
        if tail != EMPTY:
            self.owners[tail] |= 1 << dst
            self.tails[dst] = tail

    def keep(self, seq: int) -> None:
        """Forget the states that ``seq`` has no part in, and its sharers on the one it has."""
        for other in range(self.size):
            if other != seq:
                self.tails[other] = EMPTY
        others = [cell for cell, mask in enumerate(self.owners) if not _holds(mask, seq)]
        for cell in others:
            self.used -= self.pos[cell] >= 0
            self.owners[cell], self.pos[cell], self.sources[cell] = 0, -1, EMPTY
        for cell, mask in enumerate(self.owners):
            if mask:
                self.owners[cell] = 1 << seq
        if others:
            # The engine takes cells that were empty before for freed ones.
            self.head = min(self.head, others[0])

    def fill(self, cell: int, pos: int, ids: tuple[int, ...]) -> None:
        """Put a restored state of ``ids`` into ``cell``."""
        self.pos[cell] = pos
        self.sources[cell] = cell
        self.used += 1
        for seq in ids:
            self.owners[cell] |= 1 << seq
            self.tails[seq] = cell

    def assign(self, sets: list[tuple[int, ...]], lasts: list[int]) -> tuple[int, int] | None:
        """Arrange the states of the sequence ``sets`` in consecutive cells, from the lowest on.

        ``lasts`` are the positions they will then have seen. Returns the first and the last cell
        touched, or None if an id has no cell or the sets do not fit between them.
        """
        if self.head > self.used + 2 * len(sets):
            self.head = 0
        for ids in sets:
            if any(not 0 <= seq < self.size for seq in ids):
                return None
            for seq in ids[1:]:
                head = self.head
                self.release(seq)
                self.head = head
        self._give_own_cells([ids[0] for ids in sets])
        tails = [self.tails[ids[0]] for ids in sets]
        low, high = min(tails), max(tails)
        for s, ids in enumerate(sets):
            self._swap(low + s, self.tails[ids[0]])
        for s, (ids, last) in enumerate(zip(sets, lasts, strict=True)):
            cell = low + s
            self.pos[cell] = last
            self.owners[cell] = sum(1 << seq for seq in set(ids))
            for seq in ids:
                self.tails[seq] = cell
        self.head = low
        self.used = self.count_used()
        return (low, high) if high - low + 1 >= len(sets) else None

    def _give_own_cells(self, seqs: list[int]) -> None:
        """Every sequence without a cell, or with a shared one, gets the next empty cell."""
        empty = self._next_empty(self.head)
        for s, seq in enumerate(seqs):
            tail = self.tails[seq]
            if tail != EMPTY and self.owners[tail] == 1 << seq:
                continue
            if tail != EMPTY:
                self.pos[empty] = self.pos[tail]
                self.sources[empty] = self.sources[tail]
                self.owners[tail] &= ~(1 << seq)
                self.owners[empty] = 1 << seq
            self.tails[seq] = empty
            if s + 1 < len(seqs):
                empty = self._next_empty(empty + 1)

    def _next_empty(self, start: int) -> int:
        for i in range(start, start + self.size):
            if not self.owners[i % self.size]:
                return i % self.size
        return start % self.size

    def _swap(self, a: int, b: int) -> None:
        """Exchange two cells; the tails that point to them follow."""
        if a == b:
            return
        for cells in (self.pos, self.owners, self.sources):
            cells[a], cells[b] = cells[b], cells[a]
        for seq, tail in enumerate(self.tails):
            if tail == a:
                self.tails[seq] = b
            elif tail == b:
                self.tails[seq] = a


def _holds(mask: int, seq: int) -> bool:
    return seq >= 0 and bool(mask >> seq & 1)
