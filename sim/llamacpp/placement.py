"""Cells found for the ubatches of one decode, placed for good or taken back.

``llama_kv_cache::prepare`` places all ubatches one after the other, puts everything back, and the
ubatches are then applied again at the cells found. Here they stay where the first pass put them,
unless the decode fails or that pass purged something: the outcome is the same, at half the work.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from sim.llamacpp.cells import Snapshot
from sim.llamacpp.placed import Slot
from sim.llamacpp.streams import Streams


@dataclass(slots=True)
class Step:
    """One ubatch as placed, with what is needed to take it back.

    heads: of all streams, before. taken: what the cells held. purged: (stream, what was purged).
    purges: how many sequences were purged, those included that had nothing left to purge.
    """

    slot: Slot
    heads: list[int]
    taken: list[Snapshot]
    purged: list[tuple[int, Snapshot]] = field(default_factory=list)
    purges: int = 0

    @property
    def is_final(self) -> bool:
        """Whether placing it once more would purge nothing: no token of its own was purged."""
        if self.purges > len(self.purged):
            return False
        taken = np.concatenate([before.cells for before in self.taken])
        return not any(bool(np.isin(gone.cells, taken).any()) for _, gone in self.purged)


class Placement:
    """The ubatches of one decode in one cache, which ``apply`` writes to it, one at a time.

    Either `commit` or `roll_back` ends it.
    """

    __slots__ = ("_apply", "_cache", "_steps")

    def __init__(self, cache: Streams, apply: Callable[[Slot], Step]) -> None:
        self._cache = cache
        self._apply = apply
        self._steps: list[Step] = []

    def add(self, slot: Slot) -> None:
        """Place one more ubatch at the cells found for it."""
        self._steps.append(self._apply(slot))

    @property
    def slots(self) -> list[Slot]:
        """The cells of every ubatch."""
        return [step.slot for step in self._steps]

    def commit(self) -> None:
        """Keep everything as placed.

        After a purge the engine's own way is gone in full (everything back, then applied again),
        since ``n_kv`` of an earlier ubatch can depend on what a later one purged. A single ubatch
        that has purged none of its own tokens would end as it stands.
        """
        if self._cache.strict or not any(step.purges for step in self._steps):
            return
        if len(self._steps) > 1 or not self._steps[0].is_final:
            self.roll_back()
            for step in self._steps:
                self._apply(step.slot)

    def roll_back(self) -> None:
        """Take the ubatches back, the last one first.

        As the engine does it: the cells taken get back what they held, but what a purge removed is
        not put back, and the head of the s-th stream of a ubatch is set to what the head of stream
        s was (``v_heads[strm[s]] = v_heads_old[s]``, llama-kv-cache.cpp:861). With ``strict``,
        everything is as before.
        """
        cache = self._cache
        for step in reversed(self._steps):
            if cache.strict:
                for stream, before in reversed(step.purged):
                    cache.streams[stream].restore(before)
            for s, (stream, _, _) in enumerate(step.slot.parts):
                cache.streams[stream].restore(step.taken[s])
                cache.heads[stream] = step.heads[stream if cache.strict else s]
        if cache.strict and self._steps:
            cache.heads[:] = self._steps[0].heads
