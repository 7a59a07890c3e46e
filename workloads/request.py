"""What travels through the simulator: one request, and the traffic that makes requests.

Prefix identity
---------------
Two requests can share cached K/V for their first *i* tokens only if those tokens are equal. A
request says so by its *prefix path*: a tuple of ``(branch, end)`` pairs with rising ``end``. The
prefix of length *i* is identified by ``(branch, i)``, where ``branch`` belongs to the first pair
with ``i <= end``. Equal identity means equal tokens **and** an equal prefix, so a branch is an
edge of the tree of all token sequences, and comparing, hashing and slicing prefixes is integer
arithmetic, whatever the trace called its blocks. The path reaches over prompt and output; the
last branch holds what the request generates. A request without a path shares with nobody.
Branches of a workload count from 0; negative ones are left to the simulator.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from workloads.errors import InputError

PrefixPath = tuple[tuple[int, int], ...]

OUTPUTS = 2**62
"""Where a workload numbers branches by what traces say, those that are nobody else's (outputs,
mostly) start here, so that both can be counted on without an end.
"""


@dataclass(slots=True)
class Request:
    """One request as a client sends it.

    id: unique within the workload, rising in the order in which requests are made. The turns of
        a conversation are made together when it starts, so ids do not depend on the engine.
    arrival: seconds since the start of the run.
    prompt, output: tokens in, tokens out; both at least 1. ``output`` counts one sample.
    path: prefix identity over ``prompt + output`` tokens (see the module's text), or None.
    conversation, turn: which conversation this is a turn of (from 0), or None.
    samples: completions generated in parallel from one prompt.
    beam_width: width of a beam search over the output; 1 means none.
    priority: smaller is more urgent.
    slo_class: name of the service class whose objectives apply.
    after: ids of requests of the same session whose ends this one waits for; until the last of
        them, ``arrival`` is the pause (seconds) between that end and the arrival.
    """

    id: int
    arrival: float
    prompt: int
    output: int
    path: PrefixPath | None = None
    conversation: int | None = None
    turn: int = 0
    samples: int = 1
    beam_width: int = 1
    priority: int = 0
    slo_class: str = "default"
    after: tuple[int, ...] = ()


Session = list[Request]
"""Requests of one client that wait for each other, the first for none (`workloads.sessions`)."""


class Traffic(ABC):
    """The requests of one run, with the state that a closed loop needs. Used once.

    clients: how many of them send one session after the other, or None where sessions start at
        times of their own.
    """

    clients: int | None = None

    @abstractmethod
    def arrivals(self) -> Iterator[Request]:
        """Requests that come by themselves, in order of arrival, made one by one."""

    def completed(self, request: Request, at: float) -> Iterable[Request]:
        """The requests that the end of ``request`` at time ``at`` (seconds) sets off.

        Each arrives at ``at`` or later, in any order. Open-loop traffic has none. ``at`` never
        falls from one call to the next.
        """
        del request, at
        return ()

    def sessions(self) -> Iterator[Session]:
        """The same requests without an engine, in the order in which sessions start.

        For writing and counting, instead of `arrivals`. Raises `InputError` for a closed loop
        that does not say what waits for what.
        """
        for request in self.arrivals():
            if any(True for _ in self.completed(request, request.arrival)):
                raise InputError(
                    f"request {request.id} sets off another one when it ends, and this traffic "
                    "does not say so without an engine: expected a method sessions"
                )
            yield [request]


class Workload(ABC):
    """A description of traffic; every call of `traffic` yields the same requests again."""

    name: str

    @property
    def prefix_identity(self) -> str:
        """What the paths know of shared prefixes: ``exact``, ``none: ...`` or ``lost: ...``."""
        return "unstated"

    @abstractmethod
    def traffic(self) -> Traffic:
        """Fresh traffic for one run. Same workload, same seed: the same requests."""
