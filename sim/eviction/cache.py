"""A prefix cache of whole blocks and nothing else: what share of a trace it would find.

For studies of hit rates: no time, no running requests, only keys and a capacity (Mooncake,
FAST'25, figure 9).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sim.compiled import inherits
from sim.eviction.base import EVICTORS, Evictor, Key
from sim.paging.keys import KeyMaker
from workloads.errors import InputError
from workloads.request import Request

UNLIMITED = 1 << 60


class BlockCache:
    """``capacity`` blocks under an eviction policy. evictions: how many there were."""

    def __init__(self, capacity: int, evictor: Evictor) -> None:
        if capacity < 1:
            raise InputError(f"a cache of {capacity} blocks: expected at least 1")
        self.capacity = capacity
        self.evictions = 0
        self._evictor = evictor
        self._held: set[Key] = set()

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, key: Key) -> bool:
        return key in self._held

    def serve(self, keys: Iterable[Key], block_size: int = 1) -> int:
        """One request with these blocks, the first first; how many leading ones were there.

        Blocks that were there are touched, the others come in, all in the order of the prompt.
        """
        keys = list(keys)
        hits = next((i for i, key in enumerate(keys) if key not in self._held), len(keys))
        for number, key in enumerate(keys):
            if key in self._held:
                self._evictor.touch(key)
            else:
                self._bring_in(key, (number + 1) * block_size)
        return hits

    def _bring_in(self, key: Key, end: int) -> None:
        self._evictor.expect(key)
        if len(self._held) == self.capacity:
            self._held.remove(self._evictor.evict())
            self.evictions += 1
        self._evictor.insert(key, 1, end)
        self._held.add(key)


@dataclass(frozen=True)
class HitRates:
    """tokens: hits as a share of all prompt tokens. requests: mean of the requests' own shares.

    evictions: blocks that went.
    """

    tokens: float
    requests: float
    evictions: int


def evictor_of(name: str, capacity: int) -> Evictor:
    """The eviction policy of that name (or ``package.module:Class``); raises `InputError`."""
    cls: Any = EVICTORS.load(name)
    if not inherits(cls, Evictor):
        raise InputError(f"{name!r} is not an eviction policy: expected a subclass of Evictor")
    return cls(capacity)


def hit_rates(
    requests: Iterable[Request], block_size: int, capacity: int | None, evictor: str = "lru"
) -> HitRates:
    """Hits of the full blocks of all prompts, one request after the other; None: no limit.

    Raises `InputError` where there are no requests.
    """
    blocks = UNLIMITED if capacity is None else capacity
    cache = BlockCache(blocks, evictor_of(evictor, blocks))
    maker = KeyMaker()
    hit = total = number = 0
    shares = 0.0
    for request in requests:
        path = request.path or ((-1 - request.id, request.prompt),)
        keys = maker.keys(path, block_size, 0, request.prompt // block_size)
        found = cache.serve(keys, block_size) * block_size
        hit, total, number = hit + found, total + request.prompt, number + 1
        shares += found / request.prompt
    if not number:
        raise InputError("hit rates of no requests: expected at least one")
    return HitRates(hit / total, shares / number, cache.evictions)
