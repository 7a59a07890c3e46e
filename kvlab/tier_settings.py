"""What is asked of the tiers for K/V below the device."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal, Self

import simpy
from pydantic import BaseModel, ByteSize, ConfigDict, Field, model_validator

from sim.cluster.tiered import TieredPaged
from sim.cluster.tiers import Pools, TierPlan, Tiers
from sim.hardware import HardwareSheet
from sim.policies.base import Policy
from sim.policies.paged import Paged
from workloads.errors import InputError

Bytes = Annotated[ByteSize, Field(ge=1, le=1 << 60)]


class TierSetting(BaseModel):
    """Host memory and a disk that keep K/V of prompts for each replica, or for all of them.

    host, disk: bytes for the whole replica; absent: no such tier. shared: which of them are one
    for all replicas, with these bytes together. disk_read_bandwidth, disk_write_bandwidth: bytes a
    second, of all replicas together where the disk is shared; by default those of a fast NVMe
    drive (an assumption). chunk_tokens: what is stored and loaded as one. eviction: which chunk
    goes first. Each replica reaches the host over the link that the hardware sheet states.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    host: Bytes | None = None
    disk: Bytes | None = None
    shared: tuple[Literal["host", "disk"], ...] = ()
    disk_read_bandwidth: Bytes = ByteSize(7_000_000_000)
    disk_write_bandwidth: Bytes = ByteSize(5_000_000_000)
    chunk_tokens: Annotated[int, Field(ge=1, le=1 << 20)] = 256
    eviction: str = "lru"

    @model_validator(mode="after")
    def _check(self) -> Self:
        for tier in self.shared:
            if getattr(self, tier) is None:
                raise ValueError(f"shared: there is no {tier} tier: give its size")
        return self

    @property
    def are_none(self) -> bool:
        """Whether there are no tiers."""
        return self.host is None and self.disk is None

    def plans(self, sheet: HardwareSheet, devices: int) -> Iterator[TierPlan]:
        """What each device of a replica has of every tier, the nearest first."""
        if self.host is not None:
            yield TierPlan(
                self._name_of("host"),
                int(self.host) // devices,
                sheet.to_device_bandwidth,
                sheet.to_host_bandwidth,
                sheet.link_latency,
                self.eviction,
                shared="host" in self.shared,
            )
        if self.disk is not None:
            yield TierPlan(
                self._name_of("disk"),
                int(self.disk) // devices,
                float(self.disk_read_bandwidth) / devices,
                float(self.disk_write_bandwidth) / devices,
                eviction=self.eviction,
                shared="disk" in self.shared,
                shares_link="disk" in self.shared,
            )

    def _name_of(self, tier: str) -> str:
        return f"shared {tier}" if tier in self.shared else tier

    def below(
        self, policy: Policy, env: simpy.Environment, sheet: HardwareSheet, pools: Pools
    ) -> tuple[TieredPaged, Tiers]:
        """Tiers for one more replica, and the policy over them.

        pools: what the replicas of the run have in common. Raises `InputError` where the policy
        can have no tiers.
        """
        if type(policy) is not Paged:
            raise InputError(f"tiers: expected the policy 'paged', not {policy.name!r}")
        budget = policy.budget
        plans = self.plans(sheet, budget.devices)
        tiers = Tiers(env, budget, plans, self.chunk_tokens, pools)
        return TieredPaged(budget, policy.options, tiers), tiers
