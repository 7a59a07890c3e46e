"""Sessions: chains of requests of one client, and the traffic that sends them.

A session is a list of requests whose ``arrival`` still holds the pause (seconds) before them:
after the end of the request in front, or, for the first one, after the client became free. All
lengths, paths and pauses are drawn when the session is made; only the times depend on the engine.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from workloads.request import Request, Traffic

Session = list[Request]


def numbered(sessions: Iterator[Session], requests: int) -> Iterator[Session]:
    """The first sessions that hold ``requests`` requests together, the last one cut to fit.

    Sets the ids, from 0. They follow the sessions, not the engine, so that the same request has
    the same id under every policy.
    """
    first = 0
    for session in sessions:
        del session[requests - first :]
        for number, request in enumerate(session, first):
            request.id = number
        first += len(session)
        yield session
        if first == requests:
            return


class OpenTraffic(Traffic):
    """Sessions that start at given times; later requests of one wait for those in front.

    Holds only the sessions that are under way.
    """

    def __init__(self, sessions: Iterator[Session], times: Iterator[float]) -> None:
        self._sessions = sessions
        self._times = times
        self._rest: dict[int, Session] = {}

    def arrivals(self) -> Iterator[Request]:
        """The first request of every session. Ends with the sessions or with the times."""
        begin = self._begin
        for session, at in zip(self._sessions, self._times, strict=False):
            yield begin(session, at)

    def completed(self, request: Request, at: float) -> Request | None:
        """The next request of the same session, after its pause."""
        rest = self._rest.pop(request.id, None)
        return None if rest is None else self._continue(rest, at + rest[-1].arrival)

    def _begin(self, session: Session, at: float) -> Request:
        session.reverse()
        return self._continue(session, at)

    def _continue(self, rest: Session, at: float) -> Request:
        request = rest.pop()
        request.arrival = at
        if rest:
            self._rest[request.id] = rest
        return request


class ClosedTraffic(OpenTraffic):
    """A fixed number of clients: whoever ends a session pauses, then starts the next one.

    All clients begin at time 0 with their pause.
    """

    def __init__(self, sessions: Iterator[Session], clients: int) -> None:
        super().__init__(sessions, iter(()))
        self._clients = clients

    def arrivals(self) -> Iterator[Request]:
        """The first request of each client."""
        first = sorted(islice(self._sessions, self._clients), key=lambda each: each[0].arrival)
        return (self._begin(session, session[0].arrival) for session in first)

    def completed(self, request: Request, at: float) -> Request | None:
        """The next request of the session or, at its end, the first one of a new session."""
        following = super().completed(request, at)
        if following is None and (session := next(self._sessions, None)):
            following = self._begin(session, at + session[0].arrival)
        return following
