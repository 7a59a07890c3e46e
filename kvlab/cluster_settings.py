"""What is asked of a cluster: replicas, the router before them, links and tiers."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import BaseModel, ByteSize, ConfigDict, Field, model_validator

from sim.cluster.simulation import Plan

Engines = Annotated[int, Field(ge=0, le=1024)]
Bytes = Annotated[ByteSize, Field(ge=1, le=1 << 60)]
Seconds = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]


class ClusterSetting(BaseModel):
    """Several engines instead of one.

    replicas: engines that serve whole requests. prefill_replicas, decode_replicas: instead of
    these, engines that compute prompts and engines that do the rest. router: who chooses among
    them; its options. link_bandwidth: bytes a second of the link from the first to the second;
    link_latency: seconds.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    replicas: Annotated[int, Field(ge=1, le=1024)] = 1
    prefill_replicas: Engines = 0
    decode_replicas: Engines = 0
    router: str = "round-robin"
    router_options: dict[str, Any] = {}
    link_bandwidth: Bytes = ByteSize(50_000_000_000)
    link_latency: Seconds = 0.0

    @model_validator(mode="after")
    def _check(self) -> Self:
        if bool(self.prefill_replicas) != bool(self.decode_replicas):
            raise ValueError("prefill_replicas and decode_replicas go together")
        if self.prefill_replicas and self.replicas > 1:
            raise ValueError("expected replicas, or prefill_replicas and decode_replicas")
        return self

    @property
    def is_one_engine(self) -> bool:
        """Whether there is no more than one replica."""
        return self.replicas == 1 and not self.prefill_replicas

    def plan(self, seed: int) -> Plan:
        """The cluster that is asked for."""
        return Plan(
            replicas=self.decode_replicas or self.replicas,
            prefill=self.prefill_replicas,
            router=self.router,
            router_options=self.router_options,
            seed=seed,
            link_bandwidth=float(self.link_bandwidth),
            link_latency=self.link_latency,
        )
