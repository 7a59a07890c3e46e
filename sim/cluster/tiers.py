"""Tiers for K/V below the device: host memory, and a disk behind it.

Rules of LMCache (``cache_engine.py``, its connector for vLLM) in their plainest form. K and V are
kept in chunks of whole tokens of all layers. When a step has computed the end of a chunk of a
prompt, the chunk is written to the host and from there to the disk, without anybody waiting for
it; it can be found when it has arrived. A sequence that is admitted takes over the chunks, from
its first token on, that one of the tiers has beyond what the device has; the step in which it is
admitted waits until they are loaded. Chunks from the disk come in through the host, and stay.
Output tokens are not stored, and what the device evicts is not written again.

A tier may be one for all replicas (Mooncake's pool, FAST 2025; LMCache's remote backends): what
one has written there the others find.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass
from typing import Any

import simpy

from sim.budget import Budget
from sim.eviction.base import Key
from sim.eviction.cache import evictor_of
from sim.link import FairLink
from sim.paging.keys import KeyMaker
from sim.sequence import Sequence
from sim.step import Step
from workloads.errors import InputError
from workloads.request import PrefixPath


@dataclass(frozen=True)
class TierPlan:
    """What one tier is made of. Bytes, bytes a second; of each device of a replica.

    eviction: name of the eviction policy. shared: the bytes are for all replicas together. Each
    has a link of its own to a tier all the same, unless ``shares_link``.
    """

    name: str
    bytes: int
    read_bandwidth: float
    write_bandwidth: float
    latency: float = 0.0
    eviction: str = "lru"
    shared: bool = False
    shares_link: bool = False


class Store:
    """Which chunks a tier has."""

    def __init__(self, plan: TierPlan, chunk_bytes: int) -> None:
        self.capacity = plan.bytes // chunk_bytes
        if not self.capacity:
            raise InputError(
                f"tiers: the {plan.name} tier of {plan.bytes} bytes holds no chunk of "
                f"{chunk_bytes} bytes"
            )
        self.evictions = 0
        self.peak = 0
        self._evictor = evictor_of(plan.eviction, self.capacity)
        self._held: set[Key] = set()

    def __contains__(self, key: int) -> bool:
        return key in self._held

    def touch(self, keys: Iterable[int]) -> None:
        """These chunks are used; some may have gone since they were found."""
        for key in keys:
            if key in self._held:
                self._evictor.touch(key)

    def put(self, keys: Iterable[int]) -> None:
        """These chunks have arrived; others may have to go."""
        for key in keys:
            if key in self._held:
                self._evictor.renew(key)
                continue
            self._evictor.expect(key)
            if len(self._held) == self.capacity:
                self._held.remove(self._evictor.evict())
                self.evictions += 1
            self._evictor.insert(key)
            self._held.add(key)
        self.peak = max(self.peak, len(self._held))


@dataclass(frozen=True)
class Links:
    """The ways from and to a tier."""

    reading: FairLink
    writing: FairLink

    @classmethod
    def of(cls, env: simpy.Environment, plan: TierPlan) -> Links:
        """Fresh ones."""
        return cls(
            FairLink(env, plan.read_bandwidth, plan.latency),
            FairLink(env, plan.write_bandwidth, plan.latency),
        )


@dataclass
class Tier:
    """One level as one replica sees it. hit_tokens: what this replica has found there."""

    plan: TierPlan
    store: Store
    links: Links
    hit_tokens: int = 0


class Pools:
    """The tiers that all replicas of a cluster have in common, made for the first of them."""

    def __init__(self) -> None:
        self._stores: dict[TierPlan, Store] = {}
        self._links: dict[TierPlan, Links] = {}

    def tier(self, env: simpy.Environment, plan: TierPlan, chunk_bytes: int) -> Tier:
        """A tier for one more replica; raises `InputError` where it holds not one chunk."""
        if plan.shared and plan in self._stores:
            store = self._stores[plan]
        else:
            store = self._stores[plan] = Store(plan, chunk_bytes)
        if plan.shares_link and plan in self._links:
            links = self._links[plan]
        else:
            links = self._links[plan] = Links.of(env, plan)
        return Tier(plan, store, links)


class Tiers:
    """The tiers of one replica, the nearest first.

    pools: those of the cluster, for tiers that are shared. chunk: tokens of a chunk.
    prompt_tokens: of the prompts that were looked up when their sequences were admitted first;
    device_hit_tokens: those of them that the device had.
    """

    def __init__(
        self,
        env: simpy.Environment,
        budget: Budget,
        plans: Iterable[TierPlan],
        chunk: int,
        pools: Pools,
    ) -> None:
        self.chunk = chunk
        self.token_bytes = sum(budget.cell_bytes_of(group) for group in budget.model.groups())
        if not self.token_bytes:
            raise InputError(f"tiers: {budget.model.name} keeps states, no tokens to store")
        self.tiers = [pools.tier(env, plan, chunk * self.token_bytes) for plan in plans]
        self.prompt_tokens = 0
        self.device_hit_tokens = 0
        self._env = env
        self._keys = KeyMaker()
        self._wanted: list[list[int]] = []
        """Of every tier the chunks that the next step has to load."""
        self._written: dict[int, int] = {}
        """Chunks of a sequence's prompt that were looked at for writing."""
        self._forget_wanted()

    def _forget_wanted(self) -> None:
        self._wanted = [[] for _ in self.tiers]

    def _key(self, path: PrefixPath, index: int) -> int:
        return self._keys.key(path, self.chunk, index)

    def _home(self, key: int) -> int | None:
        """The nearest tier that has a chunk."""
        return next((i for i, tier in enumerate(self.tiers) if key in tier.store), None)

    # What a policy asks and does.

    def reach(self, path: PrefixPath, tokens: int) -> int:
        """Leading tokens, of so many, that are in whole chunks which one of the tiers has."""
        index = 0
        while (index + 1) * self.chunk <= tokens:
            if self._home(self._key(path, index)) is None:
                break
            index += 1
        return index * self.chunk

    def take(self, seq: Sequence, device: int, reached: int) -> None:
        """``seq`` is admitted with ``device`` tokens from the device, the tiers reach further."""
        if not seq.preemptions:
            self.prompt_tokens += seq.prompt
            self.device_hit_tokens += device
        position = device
        stop = -(-reached // self.chunk) if reached > device else 0
        for index in range(device // self.chunk, stop):
            key, end = self._key(seq.path, index), min((index + 1) * self.chunk, reached)
            home = self._home(key)
            if home is None:
                break
            self._wanted[home].append(key)
            if not seq.preemptions:
                self.tiers[home].hit_tokens += end - position
            position = end

    # What the engine does with every step.

    def before(self, step: Step) -> Generator[simpy.Event, Any, None]:
        """Load what the step's new sequences take over."""
        del step
        wanted, moving = self._wanted, 0
        self._forget_wanted()
        for tier, keys in zip(self.tiers, wanted, strict=True):
            tier.store.touch(keys)
        for place in reversed(range(len(self.tiers))):
            tier, keys = self.tiers[place], wanted[place]
            moving += len(keys)
            if moving:
                yield from tier.links.reading.transfer(moving * self.chunk * self.token_bytes)
            for nearer in self.tiers[:place]:
                nearer.store.put(keys)

    def after(self, step: Step) -> None:
        """Send off the chunks of prompts that the step has completed and nobody has."""
        for seq, start, n in step.runs:
            if start < seq.prompt:
                end = min(start + n, seq.prompt) // self.chunk
                first = self._written.get(seq.id, 0)
                keys = [self._key(seq.path, index) for index in range(first, end)]
                if start + n >= seq.prompt:
                    self._written.pop(seq.id, None)
                else:
                    self._written[seq.id] = end
                missing = [key for key in keys if self._home(key) is None]
                if missing:
                    self._env.process(self._write(missing))

    def _write(self, keys: list[int]) -> Generator[simpy.Event, Any, None]:
        for tier in self.tiers:
            yield from tier.links.writing.transfer(len(keys) * self.chunk * self.token_bytes)
            tier.store.put(keys)


def summary_of(found: SequenceOf[Tiers]) -> list[dict[str, Any]]:
    """The device and every tier of some replicas: tokens found there, and the share of all prompts.

    Bytes of tiers and links that replicas have in common are counted once.
    """
    prompts = max(1, sum(tiers.prompt_tokens for tiers in found))
    device = sum(tiers.device_hit_tokens for tiers in found)
    levels: list[dict[str, Any]] = [{"name": "device", "hit_tokens": device}]
    for level in zip(*(tiers.tiers for tiers in found), strict=True):
        stores = {id(tier.store): tier.store for tier in level}.values()
        links = {id(tier.links): tier.links for tier in level}.values()
        plan, chunk = level[0].plan, found[0].chunk * found[0].token_bytes
        levels.append(
            {
                "name": plan.name,
                "hit_tokens": sum(tier.hit_tokens for tier in level),
                "bytes": len(stores) * plan.bytes,
                "peak_bytes": sum(store.peak for store in stores) * chunk,
                "read_bytes": sum(each.reading.bytes_carried for each in links),
                "written_bytes": sum(each.writing.bytes_carried for each in links),
                "evicted_bytes": sum(store.evictions for store in stores) * chunk,
            }
        )
    return [level | {"hit_rate": level["hit_tokens"] / prompts} for level in levels]
