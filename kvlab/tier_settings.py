"""What is asked of the tiers for K/V below the device."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import simpy
from pydantic import BaseModel, ByteSize, ConfigDict, Field

from sim.cluster.tiered import TieredPaged
from sim.cluster.tiers import TierPlan, Tiers
from sim.hardware import HardwareSheet
from sim.policies.base import Policy
from sim.policies.paged import Paged
from workloads.errors import InputError

Bytes = Annotated[ByteSize, Field(ge=1, le=1 << 60)]


class TierSetting(BaseModel):
    """Host memory and a disk that keep K/V of prompts for each replica.

    host, disk: bytes for the whole replica; absent: no such tier. disk_read_bandwidth,
    disk_write_bandwidth: bytes a second; by default those of a fast NVMe drive (an assumption).
    chunk_tokens: what is stored and loaded as one. eviction: which chunk goes first. The host is
    reached over the link that the hardware sheet states.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    host: Bytes | None = None
    disk: Bytes | None = None
    disk_read_bandwidth: Bytes = ByteSize(7_000_000_000)
    disk_write_bandwidth: Bytes = ByteSize(5_000_000_000)
    chunk_tokens: Annotated[int, Field(ge=1, le=1 << 20)] = 256
    eviction: str = "lru"

    @property
    def are_none(self) -> bool:
        """Whether there are no tiers."""
        return self.host is None and self.disk is None

    def plans(self, sheet: HardwareSheet, devices: int) -> Iterator[TierPlan]:
        """What each device of a replica has of every tier, the nearest first."""
        if self.host is not None:
            yield TierPlan(
                "host",
                int(self.host) // devices,
                sheet.to_device_bandwidth,
                sheet.to_host_bandwidth,
                sheet.link_latency,
                self.eviction,
            )
        if self.disk is not None:
            yield TierPlan(
                "disk",
                int(self.disk) // devices,
                float(self.disk_read_bandwidth) / devices,
                float(self.disk_write_bandwidth) / devices,
                eviction=self.eviction,
            )

    def below(
        self, policy: Policy, env: simpy.Environment, sheet: HardwareSheet
    ) -> tuple[TieredPaged, Tiers]:
        """Fresh tiers, and the policy over them; raises `InputError` where it can have none."""
        if type(policy) is not Paged:
            raise InputError(f"tiers: expected the policy 'paged', not {policy.name!r}")
        budget = policy.budget
        tiers = Tiers(env, budget, self.plans(sheet, budget.devices), self.chunk_tokens)
        return TieredPaged(budget, policy.options, tiers), tiers
