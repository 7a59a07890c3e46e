"""Sessions: requests of one client that wait for each other, and the traffic that sends them.

A session is a list of requests, each after those it waits for (`Request.after`); the first waits
for none. While it waits, a request's ``arrival`` holds its pause: seconds after the last of the
ends that it waits for, or, for the first one, after the client became free; for any other one that
waits for none, seconds after the start of the first. All lengths, paths and pauses are drawn when
the session is made; only the times depend on the engine.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from heapq import heappop, heappush
from itertools import islice

from workloads.request import Request, Session, Traffic


def numbered(
    sessions: Iterator[Session], requests: int, *, chained: bool = True
) -> Iterator[Session]:
    """The first sessions that hold ``requests`` requests together, the last one cut to fit.

    Sets the ids, from 0. They follow the sessions, not the engine, so that the same request has
    the same id under every policy. ``after`` is given as places in the session and becomes ids;
    where it is empty and requests are ``chained``, one waits for the one in front of it.
    """
    first = 0
    for session in sessions:
        del session[requests - first :]
        for place, request in enumerate(session):
            request.id = first + place
            if request.after:
                request.after = tuple([first + each for each in request.after])
            elif place and chained:
                request.after = (first + place - 1,)
        first += len(session)
        yield session
        if first == requests:
            return


def started(sessions: Iterator[Session], times: Iterator[float]) -> Iterator[Session]:
    """The sessions, each starting at its time (seconds); ends with the sessions or the times."""
    for session, at in zip(sessions, times, strict=False):
        session[0].arrival = at
        yield session


class OpenTraffic(Traffic):
    """Sessions that start at the times they hold; later requests of one wait for those in front.

    Holds only the sessions that are under way.
    """

    def __init__(self, sessions: Iterator[Session]) -> None:
        self._sessions = sessions
        self._waiting: dict[int, list[Request]] = {}
        self._missing: dict[int, int] = {}

    def arrivals(self) -> Iterator[Request]:
        """The first request of every session, and others that wait for none, by their times."""
        coming: list[tuple[float, int, Request]] = []
        for session in self.sessions():
            while coming and coming[0][0] <= session[0].arrival:
                yield heappop(coming)[-1]
            first, *others = self._begin(session)
            for each in others:
                heappush(coming, (each.arrival, each.id, each))
            yield first
        while coming:
            yield heappop(coming)[-1]

    def sessions(self) -> Iterator[Session]:
        """All sessions; the first request of each holds its time or, with clients, its pause."""
        return self._sessions

    def completed(self, request: Request, at: float) -> Iterable[Request]:
        """The requests of the same session that waited for this end only, after their pauses."""
        if request.id not in self._waiting:
            return []
        released = []
        for waiting in self._waiting.pop(request.id):
            missing = self._missing.pop(waiting.id, 1) - 1
            if missing:
                self._missing[waiting.id] = missing
            else:
                waiting.arrival += at
                released.append(waiting)
        return released

    def _begin(self, session: Session) -> list[Request]:
        """Those that wait for none, the first of the session in front, with their times."""
        starting = session[:1]
        for request in islice(session, 1, None):
            for number in request.after:
                self._waiting.setdefault(number, []).append(request)
            if len(request.after) > 1:
                self._missing[request.id] = len(request.after)
            if not request.after:
                request.arrival += session[0].arrival
                starting.append(request)
        return starting


class ClosedTraffic(OpenTraffic):
    """A fixed number of clients: whoever ends a session pauses, then starts the next one.

    All clients begin at time 0 with their pause.
    """

    def __init__(self, sessions: Iterator[Session], clients: int) -> None:
        super().__init__(sessions)
        self.clients = clients
        self._unfinished: dict[int, list[int]] = {}

    def arrivals(self) -> Iterator[Request]:
        """The requests of each client's first session that wait for none."""
        starting = [
            request
            for session in islice(self._sessions, self.clients)
            for request in self._begin(session)
        ]
        return iter(sorted(starting, key=lambda request: request.arrival))

    def completed(self, request: Request, at: float) -> Iterable[Request]:
        """The next requests of the session or, at its end, the first one of a new session."""
        following = list(super().completed(request, at))
        left = self._unfinished.pop(request.id)
        left[0] -= 1
        if not left[0] and (session := next(self._sessions, None)):
            session[0].arrival += at
            following += self._begin(session)
        return following

    def _begin(self, session: Session) -> list[Request]:
        left = [len(session)]
        self._unfinished.update((request.id, left) for request in session)
        return super()._begin(session)
