"""Several workloads at once, each a class of service."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from workloads.errors import InputError
from workloads.plugins import option
from workloads.request import OUTPUTS, PrefixPath, Session, Traffic, Workload
from workloads.sessions import OpenTraffic, numbered
from workloads.spec import workload_of
from workloads.synthetic.base import Synthetic

_DEFAULT = (
    "interactive@0=chat:rate=2; standard@1=sharegpt:rate=4; "
    "batch@2=long-context:rate=0.2,documents=20"
)


@dataclass(frozen=True)
class _Tenant:
    slo_class: str
    priority: int
    spec: str


@dataclass(frozen=True, kw_only=True)
class MultiTenant(Synthetic):
    """Several classes of requests with their own rates, service classes and priorities.

    ``tenants`` is ``CLASS@PRIORITY=WORKLOAD``, separated by semicolons; a workload is anything
    that ``--workload`` takes, a trace too. Requests carry the name of the class (so that
    objectives can be stated for it) and the priority (smaller is more urgent). Tenants share no
    prefixes. A tenant's sessions start when its own workload says; closed loops of clients cannot
    be mixed. The default mix is this project's assumption.
    """

    name = "multi-tenant"

    tenants: str = option(_DEFAULT, "CLASS@PRIORITY=WORKLOAD; ...")

    def __post_init__(self) -> None:
        super().__post_init__()
        for tenant, workload in self._workloads():
            if workload.traffic().clients is not None:
                raise InputError(
                    f"multi-tenant: {tenant.slo_class}: expected sessions that start by "
                    f"themselves, got a closed loop of clients: {tenant.spec}"
                )

    @property
    def prefix_identity(self) -> str:
        """What all tenants know, if they agree."""
        known = {workload.prefix_identity for _, workload in self._workloads()}
        return known.pop() if len(known) == 1 else f"mixed: {'; '.join(sorted(known))}"

    def traffic(self) -> Traffic:
        """Fresh traffic of all tenants."""
        return OpenTraffic(numbered(self._sessions(), self.requests, chained=False))

    def _tenants(self) -> list[_Tenant]:
        found = []
        for piece in self.tenants.split(";"):
            name, equals, spec = piece.strip().partition("=")
            slo_class, _, priority = name.partition("@")
            if not (slo_class and equals and spec and priority.lstrip("-").isdecimal()):
                raise InputError(
                    "multi-tenant: tenants: expected CLASS@PRIORITY=WORKLOAD; ..., got "
                    f"{piece.strip()!r}"
                )
            found.append(_Tenant(slo_class, int(priority), spec))
        return found

    def _workloads(self) -> list[tuple[_Tenant, Workload]]:
        tenants = self._tenants()
        seeds = np.random.SeedSequence(self.seed).generate_state(len(tenants), np.uint64)
        return [
            (each, workload_of(each.spec, requests=self.requests, seed=int(seed >> 1)))
            for each, seed in zip(tenants, seeds.tolist(), strict=True)
        ]

    def _sessions(self) -> Iterator[Session]:
        """The sessions of all tenants in order of their starts, ``after`` as places."""
        workloads = self._workloads()
        streams = [
            self._labelled(number, len(workloads), *each) for number, each in enumerate(workloads)
        ]
        return heapq.merge(*streams, key=lambda session: session[0].arrival)

    def _labelled(
        self, number: int, tenants: int, tenant: _Tenant, workload: Workload
    ) -> Iterator[Session]:
        for session in workload.traffic().sessions():
            places = {request.id: place for place, request in enumerate(session)}
            for request in session:
                request.after = tuple(places[each] for each in request.after)
                request.slo_class, request.priority = tenant.slo_class, tenant.priority
                request.path = _among(request.path, number, tenants)
                if request.conversation is not None:
                    request.conversation = request.conversation * tenants + number
            yield session


def _among(path: PrefixPath | None, number: int, tenants: int) -> PrefixPath | None:
    """The path with branches that no other tenant has, prompts and outputs in their own ranges."""
    if path is None:
        return None
    moved = []
    for branch, end in path:
        base = OUTPUTS if branch >= OUTPUTS else 0
        if (branch - base) * tenants >= OUTPUTS - tenants:
            raise InputError("multi-tenant: the branches of a tenant are too large to be mixed")
        moved.append((base + (branch - base) * tenants + number, end))
    return tuple(moved)
