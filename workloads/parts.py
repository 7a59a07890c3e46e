"""Which numbers hang together: connected parts of a graph, found link by link."""

from __future__ import annotations


class Parts:
    """Disjoint sets of numbers; a number that was never joined is a part by itself."""

    def __init__(self) -> None:
        self._above: dict[int, int] = {}

    def part_of(self, number: int) -> int:
        """The number that stands for the part of ``number`` until something joins it."""
        above = self._above
        while (up := above.get(number, number)) != number:
            above[number] = above.get(up, up)
            number = up
        return number

    def join(self, a: int, b: int) -> bool:
        """Make one part of those of ``a`` and ``b``; whether they were two."""
        a, b = self.part_of(a), self.part_of(b)
        if a != b:
            self._above[a] = b
        return a != b
