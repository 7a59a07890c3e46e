"""What the slots of layers with a window are used for, where they have a pool of their own."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence as SequenceOf
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from sim.radix.holding import Holding
from sim.radix.manager import RadixManager
from sim.radix.paired_pool import PairedPool
from sim.radix.windowed_tree import WindowedTree
from sim.step import Cells
from sim.usage import Usage

Ints = NDArray[np.int64]
Drop = tuple[int, int]
"""Slots given up in a decode run: in which of its steps, and how many tokens."""


class WindowCounts:
    """Looks at the window's half of a manager's pages. window: its tokens."""

    def __init__(self, manager: RadixManager, window: int) -> None:
        assert isinstance(manager.pool, PairedPool) and isinstance(manager.tree, WindowedTree)
        self._pools = manager.pool
        self._tree = manager.tree
        self._manager = manager
        self._window = window

    def can_serve(self, pages: int, chunk: int) -> bool:
        """Whether a sequence of so many pages can be served alone, in chunks of ``chunk`` tokens.

        It holds up to two windows, the locked one in whole edges, and what it computes: a chunk,
        or a window of decoded tokens until it gives them up.
        """
        size = self._manager.page_size
        most = -(-(2 * self._window + max(chunk, 2 * self._window)) // size) + 2
        return min(pages, most) <= self._pools.window.size

    @property
    def pages(self) -> int:
        """Pages of the window's pool."""
        return self._pools.window.size

    def pages_of(self, pages: Cells) -> Cells:
        """The window's half of pages, -1 where it is given up."""
        return self._pools.window_of[pages]

    def usage(
        self, holdings: Iterable[tuple[Holding, int]], reserved: int, cell_bytes: int
    ) -> Usage:
        """How the pool is used. ``holdings``: with their lengths. reserved: as in the other pool.

        A sequence's own slots behind its window are dead until it gives them up. Locked slots of
        the tree count as live until they are unlocked.
        """
        tree, manager, size = self._tree, self._manager, self._manager.page_size
        capacity = self._pools.window.size * size
        free = self._pools.window.free * size + tree.window_evictable
        dead = sum(
            max(length - self._window - max(holding.given_up, holding.node.end), 0)
            for holding, length in holdings
            if not holding.prefilling
        )
        internal = manager.surplus + dead
        live = capacity - free - internal - reserved
        return Usage(capacity, live, reserved, internal, free, 0, tree.window_shared, cell_bytes)

    def drops(self, holdings: SequenceOf[Holding], lengths: Ints, steps: int) -> list[Drop]:
        """Every time that one of these holdings gives up window slots in the next steps."""
        size, window = self._manager.page_size, self._window
        found: list[Drop] = []
        for holding, length in zip(holdings, lengths.tolist(), strict=True):
            given_up, at = max(holding.given_up, holding.node.end), holding.drop_at
            while (at := -(-max(at, length) // size) * size) < length + steps:
                unseen = self._manager.unseen(at)
                found.append((at - length, max(unseen - given_up, 0)))
                given_up = max(given_up, unseen)
                at += window
        return sorted(found)

    def steps_with_room(self, begun: Ints, drops: list[Drop]) -> int:
        """How many steps of a run find pages, given those begun up to each; or nearly as many."""
        size, steps = self._manager.page_size, len(begun)
        room = self._pools.window.free + self._tree.window_evictable // size
        # What is given up within a step may come too late for it.
        gained = np.concatenate([[0], np.cumsum(_dropped(drops, steps))[:-1]]) // size
        fits = begun <= room + gained
        return steps if fits.all() else int(np.argmin(fits))

    def usage_of_run(
        self,
        now: Usage,
        holdings: SequenceOf[Holding],
        lengths: Ints,
        drops: list[Drop],
        other: Usage,
        begun: Ints,
    ) -> Usage:
        """`usage` during every step of a run. other: that of the other pool."""
        size, steps = self._manager.page_size, len(begun)
        given_up = np.cumsum(_dropped(drops, steps))
        behind = lengths - self._window
        behind -= np.array([max(each.given_up, each.node.end) for each in holdings])
        # Slots behind the window: one more a step of every sequence that is beyond its window.
        more = np.bincount(np.clip(-behind, 0, steps), minlength=steps + 1)[:steps].cumsum()
        dead = now.internal - self._manager.surplus + more.cumsum() - given_up
        internal = other.internal + dead
        free = now.free - begun * size + given_up
        live = np.asarray(now.capacity - free - internal - other.reserved, dtype=np.int64)
        return replace(now, live=live, reserved=other.reserved, internal=internal, free=free)


def _dropped(drops: list[Drop], steps: int) -> Ints:
    """Tokens given up in every step."""
    tokens = np.zeros(steps, dtype=np.int64)
    for step, n in drops:
        if step < steps:
            tokens[step] += n
    return tokens
