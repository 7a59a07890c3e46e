"""One replica after the other."""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf
from itertools import cycle
from typing import Any

from sim.cluster.router import Load, Router
from workloads.request import Request


class RoundRobin(Router):
    """Every replica in turn, whatever it has to do."""

    name = "round-robin"

    def __init__(self, replicas: int, seed: int, options: Any = None) -> None:
        super().__init__(replicas, seed, options)
        self._turns = cycle(range(replicas))

    def choose(self, request: Request, loads: SequenceOf[Load]) -> int:
        """The next one."""
        del request, loads
        return next(self._turns)
