"""The replica with the least to do."""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass
from typing import Literal

from sim.cluster.router import Load, Router, least_loaded
from workloads.request import Request


class LeastLoaded(Router):
    """The replica with the least outstanding requests or tokens; the first of equals."""

    name = "least-loaded"

    @dataclass(frozen=True)
    class Options:
        """by: what is counted of requests that were sent and did not complete yet."""

        by: Literal["requests", "tokens"] = "tokens"

    options: Options

    def choose(self, request: Request, loads: SequenceOf[Load]) -> int:
        """All replicas are looked at."""
        del request
        return least_loaded(range(self.replicas), loads, self.options.by)
