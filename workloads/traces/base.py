"""What all readers have in common: order, slices, scaled times and repetition."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from operator import itemgetter
from typing import ClassVar, Generic, Literal, TypeVar

from workloads.errors import InputError
from workloads.plugins import check_options, option
from workloads.request import OUTPUTS, PrefixPath, Request, Session, Traffic, Workload
from workloads.sessions import ClosedTraffic, OpenTraffic
from workloads.traces.head import Head
from workloads.traces.lines import MAX_SECONDS, Lines, Source

Empty = Literal["refuse", "skip", "one"]
"""What to do with requests without a prompt or an output token (failed ones, mostly)."""

S = TypeVar("S", bound=Source)


@dataclass(frozen=True)
class Trace(Workload, Generic[S]):
    """A recorded workload. Subclasses turn what a file says into sessions; the rest is done here.

    A slice is taken on the trace's own clock: sessions that begin at ``start`` or later, before
    ``start + duration``, and at most ``requests`` requests of them. A slice that begins later
    begins at time 0 and counts ids from 0. The slice is played ``repeat`` times, one copy after
    the other; the copies share prefixes with each other only if they are not ``fresh``. Then the
    times at which sessions start are divided by ``speedup``, or stretched so that requests come
    at ``rate`` a second. Pauses after the ends of requests stay as they are.

    ``rate`` and ``repeat`` cost one more reading of the slice. A request without a prompt or an
    output token is refused, left out, or given one token, as ``empty`` says.
    """

    path: str = option(text="the file")
    requests: int | None = option(None, "how many requests; none: all", low=1, high=1e9)
    rate: float | None = option(
        None, "mean requests a second; none: as recorded", low=1e-9, high=1e9
    )
    start: float = option(0.0, "seconds of the trace to leave out", low=0, high=MAX_SECONDS)
    duration: float | None = option(
        None, "seconds of the trace to take; none: all", low=0, high=MAX_SECONDS
    )
    speedup: float = option(1.0, "how many times faster", low=1e-6, high=1e6)
    repeat: int = option(1, "how many times the slice is played", low=1, high=1e6)
    fresh: bool = option(True, "repetitions bring new prompts; false: the same ones")
    empty: Empty = option("refuse", "requests without a token in or out: refuse, skip, one (token)")

    def __post_init__(self) -> None:
        check_options(self)
        if self.rate is not None and self.speedup != 1:
            raise InputError(f"{self.name}: expected rate or speedup, got both")
        self.source().check()
        if not self.is_dated:
            for name, default in (("start", 0.0), ("duration", None), ("speedup", 1.0)):
                if getattr(self, name) != default:
                    raise InputError(
                        f"{self.path}: {name}: cannot be used, since the file has no times"
                    )

    takes_directories: ClassVar[bool] = False

    @classmethod
    def sniff(cls, head: Head) -> bool:
        """Whether a file that begins like this is of this format."""
        del head
        return False

    @abstractmethod
    def source(self) -> S:
        """The file, to be read from its beginning."""

    @abstractmethod
    def recorded(self, source: S) -> Iterator[Session]:
        """All sessions as recorded, in the order in which they start; ids rise from 0.

        Raises `InputError` through ``source`` for whatever is not as the format says.
        """

    @property
    def is_dated(self) -> bool:
        """Whether the file says when sessions start."""
        return self.clients is None

    @property
    def clients(self) -> int | None:
        """How many clients send one session after the other; None: sessions start by themselves."""
        return None

    def traffic(self) -> Traffic:
        """The trace from its beginning."""
        if self.clients is not None:
            return ClosedTraffic(self._played(), self.clients)
        return OpenTraffic(self._scaled())

    def _scaled(self) -> Iterator[Session]:
        factor = self._factor
        for session in self._played():
            for request in session:
                if not request.after:
                    request.arrival *= factor
            yield session

    def _played(self) -> Iterator[Session]:
        yield from self._slice()
        for copy in range(1, self.repeat):
            for session in self._slice():
                self._extent.move(session, copy, self.fresh)
                yield session

    def _slice(self) -> Iterator[Session]:
        start, limit = self.start, self.requests
        stop = MAX_SECONDS * 2 if self.duration is None else start + self.duration
        source = self.source()
        taken, before = 0, 0.0
        for session in self._filled(source):
            at = session[0].arrival
            if self.is_dated:
                source.check_order(before, at)
                before = at
                if at < start:
                    continue
                if at >= stop:
                    break
            if limit is not None:
                del session[limit - taken :]
            if start:
                _renumber(session, taken)
                session[0].arrival -= start
            yield session
            taken += len(session)
            if taken == limit:
                break
        if not taken:
            where = "" if start == 0 and self.duration is None else " in the slice"
            raise InputError(f"{self.path}: expected at least one request{where}, got none")

    def _filled(self, source: S) -> Iterator[Session]:
        """The recorded sessions, dealt with as ``empty`` says; in them no request is empty."""
        for session in self.recorded(source):
            for request in session:
                if not (request.prompt and request.output):
                    if self.empty == "refuse" or (self.empty == "skip" and len(session) > 1):
                        raise source.error(
                            "expected at least one token of prompt and of output, got "
                            f"{request.prompt} and {request.output}; empty=one takes it for one "
                            "token, empty=skip leaves out requests that no other waits for"
                        )
                    if self.empty == "one":
                        _fill(request)
            if session[0].prompt and session[0].output:
                yield session

    @cached_property
    def _extent(self) -> _Extent:
        """What one reading of the slice says of it."""
        extent = _Extent(self.path, self.duration, self.repeat)
        for session in self._slice():
            extent.see(session)
        return extent

    @cached_property
    def _factor(self) -> float:
        """What times are multiplied by."""
        if self.rate is None:
            return 1 / self.speedup
        extent = self._extent
        span = extent.last - extent.first
        if not span:
            raise InputError(
                f"{self.path}: rate: expected requests at different times, got all at once"
            )
        return (extent.sessions - 1) / span * extent.per_session / self.rate


class LineTrace(Trace[Lines]):
    """A recorded workload in lines of text, one request each."""

    def source(self) -> Lines:
        """The lines."""
        return Lines(self.path)

    def recorded(self, source: Lines) -> Iterator[Session]:
        """One session a request."""
        return ([request] for request in self.rows(source))

    @abstractmethod
    def rows(self, lines: Lines) -> Iterator[Request]:
        """All requests of the file as recorded, ids from 0."""


class Stream(Traffic):
    """Open-loop traffic from requests that are made elsewhere."""

    def __init__(self, requests: Iterator[Request]) -> None:
        self._requests = requests

    def arrivals(self) -> Iterator[Request]:
        """The requests."""
        return self._requests


def by_start(rows: Iterable[tuple[float, int, int]]) -> Iterator[Session]:
    """Single requests in the order of their starts, which counts from the first.

    rows: start (seconds on any clock), tokens of prompt and of output; all are held at once.
    """
    ordered = sorted(rows, key=itemgetter(0))
    for number, (at, prompt, output) in enumerate(ordered):
        yield [Request(number, at - ordered[0][0], prompt, output)]


def _fill(request: Request) -> None:
    request.prompt, request.output = max(1, request.prompt), max(1, request.output)
    if request.path is not None:
        *before, (branch, _) = request.path
        request.path = (*before, (branch, request.prompt + request.output))


def _renumber(session: Session, first: int) -> None:
    numbers = {request.id: first + place for place, request in enumerate(session)}
    for request in session:
        request.id = numbers[request.id]
        request.after = tuple(numbers[each] for each in request.after)


class _Extent:
    """The size of a slice in every respect in which copies of it must not overlap."""

    def __init__(self, path: str, duration: float | None, repeat: int) -> None:
        self._path = path
        self._duration = duration
        self._repeat = repeat
        self.sessions = 0
        self.requests = 0
        self.first = 0.0
        self.last = 0.0
        self._ids = 0
        self._branches = 0
        self._conversations = 0

    @property
    def per_session(self) -> float:
        """The mean number of requests of a session."""
        return self.requests / self.sessions

    def see(self, session: Session) -> None:
        """Take one more session into account."""
        self.last = session[0].arrival
        if not self.sessions:
            self.first = self.last
        self.sessions += 1
        self.requests += len(session)
        for request in session:
            self._ids = max(self._ids, request.id + 1)
            if request.conversation is not None:
                self._conversations = max(self._conversations, request.conversation + 1)
            for branch, _ in request.path or ():
                self._branches = max(self._branches, branch % OUTPUTS + 1)

    def move(self, session: Session, copy: int, fresh: bool) -> None:
        """Make ``session`` one of the ``copy``-th repetition, the first of which is number 1."""
        # Prompts and outputs have a range each (`OUTPUTS`), within which copies lie in a row.
        if fresh and self._branches * self._repeat > OUTPUTS:
            raise InputError(
                f"{self._path}: repeat: the branches of its prefix paths are too large to be "
                "repeated with new ones; expected fresh=false"
            )
        session[0].arrival += copy * self._period
        for request in session:
            request.id += copy * self._ids
            request.after = tuple(each + copy * self._ids for each in request.after)
            if fresh:
                request.path = _shifted(request.path, copy * self._branches)
                if request.conversation is not None:
                    request.conversation += copy * self._conversations

    @property
    def _period(self) -> float:
        """Seconds between the starts of two copies: the mean gap follows the last session."""
        if self._duration is not None:
            return self._duration
        gaps = max(1, self.sessions - 1)
        return (self.last - self.first) * (gaps + 1) / gaps


def _shifted(path: PrefixPath | None, by: int) -> PrefixPath | None:
    return None if path is None else tuple((branch + by, end) for branch, end in path)
