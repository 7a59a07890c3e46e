"""A fitted time: a fixed cost, costs that add up, and limits of which the slower one counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Fitted:
    """Seconds of one kernel as a function of what it does (its *terms*).

    ``fixed + sum of sums[t] * t + max of limits[t] * t``: every coefficient is seconds per unit of
    a term and not negative. A limit is a roofline with a measured slope: bytes at the bandwidth
    that was reached, FLOPs at the rate that was.
    """

    fixed: float
    sums: Mapping[str, float]
    limits: Mapping[str, float]

    def seconds(self, terms: Mapping[str, Any]) -> Any:
        """For numbers or arrays of them; the same operations in the same order for both."""
        total: Any = self.fixed
        for name, cost in self.sums.items():
            total = total + cost * terms[name]
        slowest: Any = 0.0
        for name, cost in self.limits.items():
            slowest = np.maximum(slowest, cost * terms[name])
        return total + slowest

    def to_json(self) -> dict[str, Any]:
        """As a calibration file holds it."""
        return {"fixed": self.fixed, "sums": dict(self.sums), "limits": dict(self.limits)}
