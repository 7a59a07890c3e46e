"""Collectives between GPUs as a ring of equal links, for tensor parallelism."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Ring:
    """``ranks`` GPUs, each of which sends to the next one.

    bandwidth: bytes a second of a link. latency: seconds of a message, whatever its size. A ring
    sends the data in as many pieces as there are ranks, one message a piece and hop (Patarasuk
    and Yuan, "Bandwidth optimal all-reduce algorithms for clusters of workstations", 2009).
    """

    ranks: int = 1
    bandwidth: float = float("inf")
    latency: float = 0.0

    def all_reduce(self, n_bytes: Any) -> Any:
        """Seconds until every rank has the sum of all ranks' ``n_bytes``."""
        hops = 2 * (self.ranks - 1)
        return hops * (self.latency + n_bytes / self.ranks / self.bandwidth)

    def all_gather(self, n_bytes: Any) -> Any:
        """Seconds until every rank has the ``n_bytes`` of which each held an equal share."""
        hops = self.ranks - 1
        return hops * (self.latency + n_bytes / self.ranks / self.bandwidth)


ALONE = Ring()
"""One GPU, which has nobody to talk to."""
