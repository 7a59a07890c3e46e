"""The better of two replicas drawn at random."""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from sim.cluster.router import Load, Router, least_loaded
from workloads.request import Request


class PowerOfTwo(Router):
    """Two different replicas are drawn, and the one with less to do is taken.

    Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing" (2001).
    """

    name = "power-of-two"

    @dataclass(frozen=True)
    class Options:
        """by: what is counted of requests that were sent and did not complete yet."""

        by: Literal["requests", "tokens"] = "requests"

    options: Options

    def __init__(self, replicas: int, seed: int, options: Any = None) -> None:
        super().__init__(replicas, seed, options)
        self._rng = np.random.default_rng(seed)

    def choose(self, request: Request, loads: SequenceOf[Load]) -> int:
        """Of equals the one with the lower number."""
        del request
        if self.replicas == 1:
            return 0
        drawn = self._rng.choice(self.replicas, size=2, replace=False)
        return least_loaded(map(int, drawn), loads, self.options.by)
