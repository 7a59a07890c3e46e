"""The order of what happens at one instant, also where several engines share a clock.

First arrivals, transfers and the like; then the ends of steps, engine after engine, and all that
these set off; last, engine after engine, the engines plan on. So a step sees every arrival up to
the instant at which it starts, whichever event was created first, and taking several steps at
once changes nothing.

An engine that takes several steps at once must not miss what another does meanwhile. What others
can notice of an engine is that it completes requests; each says until when it surely will not.
"""

from __future__ import annotations

from collections.abc import Generator
from math import inf
from typing import Any, Final

import simpy
from simpy.events import Event, EventPriority

from sim.clock import to_ticks

_ENDS: Final = 2
"""Priority of the first engine's step ends; SimPy's own are 0 and 1."""
_STARTS: Final = 1 << 20


class _Pause(Event):
    """What an engine waits for: a timeout with a priority of its own, again and again."""

    def __init__(self, env: simpy.Environment) -> None:
        super().__init__(env)
        self._ok = True
        self._value = None

    def until(self, at: float, priority: int) -> Event:
        """Itself, to happen at ``at`` (seconds); it must not be waited for already."""
        self.callbacks = []
        self.env.schedule(self, EventPriority(priority), at - self.env.now)
        return self


class Turn:
    """One engine's place among those that share a clock.

    peers: the turns of all engines on the clock, in order; the new one appends itself.
    quiet_until: before this time (seconds) the engine completes nothing, as long as nothing is
    submitted to it.
    """

    def __init__(self, env: simpy.Environment, peers: list[Turn]) -> None:
        self.quiet_until = inf
        self._busy_until = 0.0
        self._env = env
        self._index = len(peers)
        self._pause = _Pause(env)
        self._peers = peers
        peers.append(self)

    @property
    def is_alone(self) -> bool:
        """Whether no other engine shares the clock."""
        return len(self._peers) == 1

    def wake(self) -> None:
        """Something was submitted: the engine looks at it when its step is over."""
        self.quiet_until = max(self._env.now, self._busy_until)

    def rest(self) -> None:
        """The engine has nothing to do."""
        self.quiet_until = inf

    @property
    def now(self) -> int:
        """The time in ticks."""
        return to_ticks(self._env._now)

    @property
    def is_settled(self) -> bool:
        """Whether nothing else happens at this instant any more."""
        queue = self._env._queue
        if not queue:
            return True
        event, now = queue[0], self._env._now
        return bool(event[0] > now or (event[0] == now and event[1] >= _STARTS + self._index))

    def settle(self) -> Generator[Event, Any, None]:
        """Wait for whatever else happens at this instant."""
        while not self.is_settled:
            yield self._pause.until(self._env.now, _STARTS + self._index)

    def begin(self, seconds: float, quiet: float = 0.0) -> None:
        """A step of so many seconds begins.

        quiet: seconds from now before which nothing is completed, if more than those of the step.
        """
        now: float = self._env._now
        self._busy_until = now + seconds
        self.quiet_until = now + max(quiet, seconds)

    def passes(self) -> bool:
        """Let the step pass, if nothing else happens before it is over.

        Otherwise `step_end` has to be waited for.
        """
        env = self._env
        if env._queue and env._queue[0][0] <= self._busy_until:
            return False
        # What waiting for an event of our own would do, without going through SimPy's queue.
        env._now = self._busy_until
        return True

    def step_end(self) -> Event:
        """The end of the step, where it does not simply pass."""
        return self._pause.until(self._busy_until, _ENDS + self._index)

    def next_event(self) -> float:
        """Time of the next event that is no other engine's; infinite if there is none."""
        queue = self._env._queue
        if self.is_alone:
            return float(queue[0][0]) if queue else inf
        return min((time for time, _, _, event in queue if type(event) is not _Pause), default=inf)

    def next_completion(self) -> float:
        """Before this time no other engine completes anything."""
        return min((peer.quiet_until for peer in self._peers if peer is not self), default=inf)
