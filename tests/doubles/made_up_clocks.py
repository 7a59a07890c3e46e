"""Time models of tests: step times that one can add up by hand, and such that nobody can."""

from __future__ import annotations

from sim.timing.base import TimeModel


class FlatTime(TimeModel):
    """A second a step and an eighth for each token, so that plain additions are exact."""

    name = "flat"

    def __init__(self, swap_s: float = 2.0) -> None:
        """``swap_s``: seconds of a transfer to or from the host."""
        self.swap_s = swap_s

    @classmethod
    def of(cls, budget, hardware, path):
        return cls()

    def seconds(self, work):
        return 1.0 + 0.125 * work.tokens + 0.0 * work.decode_context

    def swap_seconds(self, n_bytes, to_host):
        return self.swap_s


class CrookedTime(FlatTime):
    """Every step takes another time, none of them a whole number of ticks."""

    def seconds(self, work):
        return 0.001 + 1e-6 * work.tokens + 1e-7 * work.decode_context / 3.0
