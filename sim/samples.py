"""Snapshots of a run at regular times, never more than a few hundred of them."""

from __future__ import annotations

from typing import Any

import numpy as np

from sim.clock import FOREVER, to_seconds, to_ticks
from sim.errors import UnsupportedOperation
from sim.policies.base import Policy
from sim.step import Cells
from sim.usage import PARTS, Usage, counts_of

MOST_ROWS = 512
FIRST_INTERVAL = to_ticks(1 / 64)
MAP_HEIGHT = 512
WINDOW_ROWS = 500
WINDOW_HEIGHT = 1024
BYTES = (*(f"{part}_bytes" for part in PARTS), "capacity_bytes")


class Samples:
    """Rows of a run's timeline.

    A row is taken at the end of the first step that ends at or after the next due time. When
    there are ``MOST_ROWS`` rows, every second one is dropped and the interval doubles, so a run
    of any length ends with between half as many and that many, without knowing its length.
    """

    def __init__(self, policy: Policy, with_maps: bool) -> None:
        self._policy = policy
        self._with_maps = with_maps and names_cells(policy)
        self._interval = FIRST_INTERVAL
        self._until = FOREVER
        self._height = MAP_HEIGHT
        self._addresses: dict[int, Cells] = {}
        self.due = 0
        self.rows: list[dict[str, Any]] = []

    def only_between(self, start: int, end: int) -> None:
        """Take rows in a window of time (ticks) alone, closer together and of more addresses."""
        self.due, self._until = start, end
        self._interval = max(1, (end - start) // WINDOW_ROWS)
        self._height = WINDOW_HEIGHT

    def take(self, now: int, counts: dict[str, int]) -> None:
        """Add a row for time ``now`` (ticks): what was counted, and how the caches stand."""
        usage = self._policy.usage()
        self.rows.append(
            {"time_s": to_seconds(now)} | counts | self._bytes_of(usage) | self._maps(usage)
        )
        if len(self.rows) == MOST_ROWS:
            del self.rows[1::2]
            self._interval *= 2
        self.due = (now // self._interval + 1) * self._interval
        if self.due > self._until:
            self.due = FOREVER

    def _bytes_of(self, usage: tuple[Usage, ...]) -> dict[str, int]:
        row, largest = dict.fromkeys(BYTES, 0), 0
        for cache, part in enumerate(usage):
            size = part.cell_bytes
            for name, cells in zip(BYTES, (*counts_of(part), part.capacity), strict=True):
                row[name] += int(cells) * size
            largest = max(largest, self._policy.largest_free_run(cache) * size)
        row["largest_free_run_bytes"] = largest
        return row

    def _maps(self, usage: tuple[Usage, ...]) -> dict[str, Any]:
        """The owners of evenly spaced addresses: a picture of holes needs no more."""
        if not self._with_maps:
            return {}
        maps = {}
        for cache, part in enumerate(usage):
            if part.capacity:
                addresses = self._addresses_of(cache, part.capacity)
                maps[f"owners_{cache}"] = self._policy.owners_at(addresses, cache).astype(np.int32)
        return maps

    def _addresses_of(self, cache: int, capacity: int) -> Cells:
        """The addresses that are drawn, of so many: the same array every time."""
        addresses = self._addresses.get(cache)
        if addresses is None:
            rows = min(self._height, capacity)
            addresses = (np.arange(rows) * capacity + capacity // 2) // rows
            self._addresses[cache] = addresses
        return addresses


def names_cells(policy: Policy) -> bool:
    """Whether the policy says which cells it uses; counting alone is enough for a policy."""
    try:
        policy.owners(0)
    except UnsupportedOperation:
        return False
    return True
