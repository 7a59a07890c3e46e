"""Shelves: blocks of one group that can be found on one branch, in the order of their tokens."""

from __future__ import annotations

from collections.abc import Iterator


class Shelf:
    """Blocks by entry: entry i of a table holds the tokens from ``i * block size`` on.

    first: the lowest entry with a place. blocks: from there on, of those that stand at an entry
    the one that came first; 0 for none. later: by entry those that came after it, in order.
    changed: the pool's clock when anything came or went last.
    """

    __slots__ = ("blocks", "changed", "first", "later", "number")

    def __init__(self, number: int, first: int) -> None:
        self.number = number
        self.first = first
        self.changed = 0
        self.blocks: list[int] = []
        self.later: dict[int, list[int]] = {}

    def put(self, first: int, blocks: list[int]) -> bool:
        """Add blocks from entry ``first`` on; False, with nothing done, where others stand."""
        at, there = self._place(first), self.blocks
        stop = at + len(blocks)
        if any(there[at:stop]):
            return False
        there[at:stop] = blocks
        return True

    def put_one(self, entry: int, block: int) -> None:
        """Add a block, behind others if there are any."""
        at, there = self._place(entry), self.blocks
        if at == len(there):
            there.append(block)
        elif there[at]:
            self.later.setdefault(entry, []).append(block)
        else:
            there[at] = block

    def _place(self, entry: int) -> int:
        """The index of an entry in ``blocks``, which reaches up to it now."""
        at, there = entry - self.first, self.blocks
        if at < 0:
            there[:0] = [0] * -at
            self.first = entry
            return 0
        if at > len(there):
            there += [0] * (at - len(there))
        return at

    def remove(self, entry: int, block: int) -> None:
        """Take a block out; the next in line comes to the front."""
        at = entry - self.first
        if not self.later:
            self.blocks[at] = 0
            return
        later = self.later.get(entry)
        if self.blocks[at] != block:
            assert later is not None
            later.remove(block)
        else:
            self.blocks[at] = later.pop(0) if later else 0
        if later is not None and not later:
            del self.later[entry]

    def has(self, entry: int, block: int) -> bool:
        """Whether ``block`` stands at ``entry``, in whatever place."""
        at = entry - self.first
        if 0 <= at < len(self.blocks) and self.blocks[at] == block:
            return True
        return block in self.later.get(entry, ())

    def places(self) -> Iterator[tuple[int, int]]:
        """All (entry, block)."""
        for entry, block in enumerate(self.blocks, self.first):
            if block:
                yield entry, block
        for entry, later in self.later.items():
            for block in later:
                yield entry, block
