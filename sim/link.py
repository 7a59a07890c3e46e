"""The link between device and host memory, over which sequences are swapped."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import simpy

from sim.clock import on_tick
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
