"""Links over which K/V moves: between a device and its host, and between replicas."""

from __future__ import annotations

from collections.abc import Generator
from fractions import Fraction
from heapq import heappop, heappush
from typing import Any

import simpy

from sim.clock import TICKS_PER_SECOND, on_tick, to_seconds, to_ticks
from sim.timing.base import TimeModel


class HostLink:
    """One transfer at a time in each direction; whoever comes later waits."""

    def __init__(self, env: simpy.Environment, time_model: TimeModel) -> None:
        self._env = env
        self._time_model = time_model
        self._busy = {True: simpy.Resource(env), False: simpy.Resource(env)}
        self.bytes_carried = 0

    def transfer(self, n_bytes: int, to_host: bool) -> Generator[simpy.Event, Any, None]:
        """A process that ends when ``n_bytes`` have been carried."""
        with self._busy[to_host].request() as turn:
            yield turn
            seconds = self._time_model.swap_seconds(n_bytes, to_host)
            yield self._env.timeout(on_tick(seconds))
        self.bytes_carried += n_bytes


class FairLink:
    """A link that all its transfers share equally at every moment (processor sharing).

    bandwidth: bytes a second, of which n transfers get an n-th each. latency: seconds before a
    transfer takes its share. Times follow from exact fractions, and a transfer ends at the tick
    next to its exact end.
    """

    def __init__(self, env: simpy.Environment, bandwidth: float, latency: float = 0.0) -> None:
        self.bytes_carried = 0
        self.busy_ticks = 0
        self._env = env
        self._latency = on_tick(latency)
        self._rate = Fraction(bandwidth) / TICKS_PER_SECOND
        """Bytes a tick."""
        self._served = Fraction(0)
        """Bytes that a transfer would have got that has been there since the link was idle."""
        self._seen = 0
        self._active: list[tuple[Fraction, int, simpy.Event]] = []
        self._count = 0
        self._alarms = 0

    def transfer(self, n_bytes: int) -> Generator[simpy.Event, Any, None]:
        """A process that ends when ``n_bytes`` have been carried."""
        if self._latency:
            yield self._env.timeout(self._latency)
        self._advance()
        done = self._env.event()
        heappush(self._active, (self._served + n_bytes, self._count, done))
        self._count += 1
        self._set_alarm()
        yield done
        self.bytes_carried += n_bytes

    @property
    def active(self) -> int:
        """Transfers that share the link now."""
        return len(self._active)

    def _advance(self) -> None:
        """Give everybody what was due since the link was looked at last."""
        now = to_ticks(self._env.now)
        if self._active:
            self._served += (now - self._seen) * self._rate / len(self._active)
            self.busy_ticks += now - self._seen
        else:
            self._served = Fraction(0)
        self._seen = now

    def _ticks_to_first_end(self) -> int:
        missing = self._active[0][0] - self._served
        return max(0, round(missing * len(self._active) / self._rate))

    def _set_alarm(self) -> None:
        """Look again when the first of the transfers ends, unless others come or end before."""
        self._alarms += 1
        number = self._alarms
        alarm = self._env.timeout(to_seconds(self._ticks_to_first_end()))
        alarm.callbacks.append(lambda _: self._end_transfers(number))

    def _end_transfers(self, alarm: int) -> None:
        if alarm != self._alarms:
            return
        self._advance()
        while self._active and not self._ticks_to_first_end():
            heappop(self._active)[2].succeed()
        if self._active:
            self._set_alarm()
