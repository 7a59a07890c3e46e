"""Links over which K/V moves: between a device and its host, and between replicas."""

from __future__ import annotations

from bisect import insort
from collections.abc import Generator
from fractions import Fraction
from typing import Any

import simpy
from simpy.resources.base import BaseResource, Get, Put

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


class Transfer(Put["FairLink"]):
    """So many bytes on their way over a link: an event that comes when they have been carried.

    end: bytes that the link will have carried for each of its transfers when this one ends.
    """

    def __init__(self, link: FairLink, n_bytes: int) -> None:
        self.end = link.advance() + n_bytes
        super().__init__(link)


class Transfers(list[Transfer]):
    """Those under way, the one that ends first in front; of equals the one that came first."""

    def append(self, transfer: Transfer) -> None:
        """Put it in its place."""
        insort(self, transfer, key=lambda each: each.end)


class FairLink(BaseResource[Transfer, Get[Any]]):
    """A link that all its transfers share equally at every moment (processor sharing).

    A SimPy resource, of which each transfer holds a share until it ends. bandwidth: bytes a
    second, of which n transfers get an n-th each. latency: seconds before a transfer takes its
    share. Times follow from exact fractions, and a transfer ends at the tick next to its exact end.
    """

    PutQueue = Transfers

    def __init__(self, env: simpy.Environment, bandwidth: float, latency: float = 0.0) -> None:
        super().__init__(env, float("inf"))
        self.bytes_carried = 0
        self.busy_ticks = 0
        self._latency = on_tick(latency)
        self._rate = Fraction(bandwidth) / TICKS_PER_SECOND
        """Bytes a tick."""
        self._served = Fraction(0)
        """Bytes that a transfer would have got that has been there since the link was idle."""
        self._seen = 0
        self._alarms = 0

    def transfer(self, n_bytes: int) -> Generator[simpy.Event, Any, None]:
        """A process that ends when ``n_bytes`` have been carried."""
        if self._latency:
            yield self._env.timeout(self._latency)
        yield Transfer(self, n_bytes)
        self.bytes_carried += n_bytes

    @property
    def active(self) -> int:
        """Transfers that share the link now."""
        return len(self.put_queue)

    def advance(self) -> Fraction:
        """Give everybody what was due since the link was looked at last.

        How many bytes a transfer would have got that has been there since the link was idle.
        """
        now = to_ticks(self._env.now)
        if self.put_queue:
            self._served += (now - self._seen) * self._rate / len(self.put_queue)
            self.busy_ticks += now - self._seen
        else:
            self._served = Fraction(0)
        self._seen = now
        return self._served

    def _do_put(self, event: Transfer) -> bool:
        """Somebody has come, so that all ends move: look again at the first of them."""
        del event
        self._set_alarm()
        return False

    def _ticks_to_first_end(self) -> int:
        missing = self.put_queue[0].end - self._served
        return max(0, round(missing * len(self.put_queue) / self._rate))

    def _set_alarm(self) -> None:
        """Look again when the first of the transfers ends, unless others come or end before."""
        self._alarms += 1
        number = self._alarms
        alarm = self._env.timeout(to_seconds(self._ticks_to_first_end()))
        alarm.callbacks.append(lambda _: self._end_transfers(number))

    def _end_transfers(self, alarm: int) -> None:
        if alarm != self._alarms:
            return
        self.advance()
        while self.put_queue and not self._ticks_to_first_end():
            self.put_queue.pop(0).succeed()
        if self.put_queue:
            self._set_alarm()
