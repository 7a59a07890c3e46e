"""Recordings that do not say when requests came: lengths and texts, benchmark data sets."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from workloads.arrivals import Arrivals, Poisson
from workloads.plugins import option
from workloads.request import Traffic
from workloads.traces.base import S, Trace


@dataclass(frozen=True)
class Undated(Trace[S]):
    """A recording whose sessions start when an arrival process says, at ``rate`` if given.

    A subclass some of whose files do have times says so in `is_dated`, and those are used.
    """

    arrivals: Arrivals = option(Poisson(), "when sessions start, where the file does not say")
    seed: int = option(0, "seed of what the file does not say", low=0, high=2**63 - 1)

    @property
    def is_dated(self) -> bool:
        """False: times are drawn."""
        return False

    def traffic(self) -> Traffic:
        """The recording from its beginning, times drawn anew from the same seed."""
        if self.is_dated:
            return super().traffic()
        process = self.arrivals
        if self.rate is not None:
            process = process.at_rate(self.rate / self._extent.per_session)
        return process.traffic(self._played(), np.random.default_rng(self.seed))
