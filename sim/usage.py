"""How full caches are, in numbers of cells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from sim.step import Count


@dataclass(slots=True, init=False)
class Usage:
    """How the cells of one of a policy's caches are used at one moment. All counts are cells.

    A policy lays out one cache for all layers (`ring`), one a layer group (`iswa`), or one pool
    that the layer groups share (`paged`); `Policy.cache_of` says which cache serves a group.

    ``capacity == live + reserved + internal + free`` always holds.

    live: hold a token that some sequence can still attend to (a shared cell counts once).
    reserved: set aside for tokens that will come.
    internal: set aside and never used, or dead (masked for good, not yet given back).
    free: to be had. external: the part of ``free`` that a request cannot get for want of one run.
    shared: the part of ``live`` with more than one owner.
    cell_bytes: K and V of one cell, over all layers that the cache serves.
    In the plan of a decode run every count is an array over its steps (or one number for all).
    """

    capacity: int
    live: Count
    reserved: Count
    internal: Count
    free: Count
    external: Count
    shared: Count
    cell_bytes: int

    def __init__(
        self,
        capacity: int,
        live: Count,
        reserved: Count,
        internal: Count,
        free: Count,
        external: Count,
        shared: Count,
        cell_bytes: int,
    ) -> None:
        self.capacity = capacity
        self.live = live
        self.reserved = reserved
        self.internal = internal
        self.free = free
        self.external = external
        self.shared = shared
        self.cell_bytes = cell_bytes


PARTS = ("live", "reserved", "internal", "free", "external", "shared")


def counts_of(part: Usage) -> tuple[Any, ...]:
    """The counts that change, in the order of `PARTS`."""
    return part.live, part.reserved, part.internal, part.free, part.external, part.shared


class CellTicks:
    """The counts of one cache summed over time: cells x ticks."""

    def __init__(self) -> None:
        self.live = 0
        self.reserved = 0
        self.internal = 0
        self.free = 0
        self.external = 0
        self.shared = 0

    def use(self, part: Usage, ticks: int) -> None:
        """Add up a time in which the cache was used like this; all counts are numbers."""
        self.live += cast("int", part.live) * ticks
        self.reserved += cast("int", part.reserved) * ticks
        self.internal += cast("int", part.internal) * ticks
        self.free += cast("int", part.free) * ticks
        self.external += cast("int", part.external) * ticks
        self.shared += cast("int", part.shared) * ticks

    def add(self, amounts: tuple[int, ...]) -> None:
        """Add up more time; ``amounts`` in the order of `PARTS`."""
        self.live += amounts[0]
        self.reserved += amounts[1]
        self.internal += amounts[2]
        self.free += amounts[3]
        self.external += amounts[4]
        self.shared += amounts[5]

    def by_name(self) -> dict[str, int]:
        """All of them."""
        return {part: getattr(self, part) for part in PARTS}
