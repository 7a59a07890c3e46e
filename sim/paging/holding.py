"""What one sequence holds of a pool of blocks."""

from __future__ import annotations

from typing import Final, NamedTuple

from sim.paging.groups import NEVER, Table
from workloads.request import PrefixPath

EVERYTHING: Final = 1 << 62
"""More tokens than any sequence has."""


class Moved(NamedTuple):
    """The first ``tokens`` tokens of block ``source`` belong into block ``target`` too."""

    group: int
    source: int
    target: int
    tokens: int


class Holding:
    """What one sequence holds.

    tables: one per group. path: its prefix identity. public: leading tokens that the prefix cache
    is told of as soon as they have blocks. start, end: the tokens that room was last made for.
    forked: whether it began as a copy of another, or was copied. open_tail: whether its last block
    may be shared, or was written before. drop_at: tokens that have to be computed before anything
    falls out of a window. final: tokens it will have in the end. surplus: room in
    its last block that it will never use, as far as it is known. known: tokens that are known as
    soon as they have room; of those behind them the last one with room is not. room: tokens that
    all tables have room for, or fewer. writes: branches it goes on, if others may be on them too.
    """

    __slots__ = (
        "drop_at",
        "end",
        "final",
        "forked",
        "known",
        "open_tail",
        "path",
        "public",
        "room",
        "start",
        "surplus",
        "tables",
        "writes",
    )

    def __init__(self, tables: list[Table], path: PrefixPath, public: int) -> None:
        self.tables = tables
        self.path = path
        self.public = public
        self.forked = self.open_tail = False
        self.start = self.end = self.final = self.surplus = self.room = 0
        self.drop_at = NEVER
        self.known = EVERYTHING
        self.writes: list[int] = []

    def told(self, tokens: int) -> int:
        """How many of the first ``tokens`` tokens, which have room, the cache is told of."""
        return tokens if tokens <= self.known else max(self.known, tokens - 1)
