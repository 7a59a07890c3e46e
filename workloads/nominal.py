"""Traffic without a simulator: an engine with room for everybody and a constant pace.

Some numbers of a workload exist only once something serves it: when the next turn of a
conversation comes, how many requests are under way. This is the simplest thing that can serve it,
and what it says is nominal: nobody ever waits for anybody else.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import NamedTuple

from workloads.request import Request, Traffic


class Served(NamedTuple):
    """A request that came at ``start`` and ended at ``end`` (seconds)."""

    request: Request
    start: float
    end: float


def served(traffic: Traffic, seconds_per_token: float) -> Iterator[Served]:
    """All requests in order of arrival; each takes so long for every token of its output.

    Those that arrive at the same time come in the order of their ids. Holds what is under way.
    """
    coming = traffic.arrivals()
    following = next(coming, None)
    ends: list[tuple[float, int, Request]] = []
    pauses: list[tuple[float, int, Request]] = []
    while following is not None or ends or pauses:
        now = min(
            following.arrival if following is not None else float("inf"),
            ends[0][0] if ends else float("inf"),
            pauses[0][0] if pauses else float("inf"),
        )
        # Ends come first: what they set off may arrive at the same time.
        if ends and ends[0][0] == now:
            at, _, ended = heapq.heappop(ends)
            for request in traffic.completed(ended, at):
                heapq.heappush(pauses, (request.arrival, request.id, request))
            continue
        if following is not None and following.arrival == now:
            heapq.heappush(pauses, (now, following.id, following))
            following = next(coming, None)
            continue
        _, number, request = heapq.heappop(pauses)
        end = now + request.output * seconds_per_token
        heapq.heappush(ends, (end, number, request))
        yield Served(request, now, end)
