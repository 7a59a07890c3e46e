"""Sequences on the host: what a policy's `swap_out` and `swap_in` mean for real rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from backends.store import HostRows, KVStore
from sim.policies.base import Policy
from sim.sequence import Sequence

Swap = Callable[[], None]


class Watched:
    """A policy as a scheduler sees it, with its swaps noted; all else is the policy's own.

    Nothing is carried at once: rows may still have to be copied to where the policy says they
    are. `take` hands out each transfer with the number of copies that come before it.

    stores: the store of each group (by the policy's index of it) whose rows are carried.
    bytes_out, bytes_in: carried so far.
    """

    def __init__(self, policy: Policy, stores: dict[int, KVStore]) -> None:
        self._policy = policy
        self._stores = stores
        self._swaps: list[tuple[int, Swap]] = []
        self._coming: dict[int, tuple[int, Swap]] = {}
        self._host: dict[int, dict[int, tuple[Any, HostRows]]] = {}
        self.bytes_out = self.bytes_in = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._policy, name)

    def take(self) -> list[tuple[int, Swap]]:
        """The transfers since the last call: (copies owed before it, what carries it)."""
        swaps, self._swaps, self._coming = self._swaps, [], {}
        return swaps

    def release(self, seq: Sequence) -> None:
        """The policy's own; rows that were to come back for it stay on the host."""
        self._policy.release(seq)
        coming = self._coming.pop(seq.id, None)
        if coming is not None:
            self._swaps.remove(coming)

    def swap_out(self, seq: Sequence) -> int:
        """The policy's own; the rows leave from where they were before it."""
        places = self._places(seq)
        owed = len(self._policy._copies)
        size = self._policy.swap_out(seq)

        def carry() -> None:
            self._host[seq.id] = {
                group: (positions, self._stores[group].swap_out(cells))
                for group, (positions, cells) in places.items()
            }
            self.bytes_out += sum(rows.nbytes for _, rows in self._host[seq.id].values())

        self._swaps.append((owed, carry))
        return size

    def swap_in(self, seq: Sequence) -> int | None:
        """The policy's own; the rows go where their positions are after it."""
        size = self._policy.swap_in(seq)
        if size is None:
            return None
        places = self._places(seq)

        def carry() -> None:
            for group, (saved, rows) in self._host[seq.id].items():
                positions, cells = places[group]
                _, there, which = np.intersect1d(positions, saved, return_indices=True)
                self._stores[group].swap_in(rows, cells[there], which)
                self.bytes_in += rows.nbytes

        self._coming[seq.id] = (len(self._policy._copies), carry)
        self._swaps.append(self._coming[seq.id])
        return size

    def _places(self, seq: Sequence) -> dict[int, Any]:
        return {group: self._policy.cells_of(seq, group) for group in self._stores}
