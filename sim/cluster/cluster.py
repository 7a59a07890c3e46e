"""Replicas behind a router, each of them one engine; on one clock."""

from __future__ import annotations

from collections.abc import Callable

from sim.cluster.merging import MergedRecorder, Row, Served
from sim.cluster.router import Load, Router
from sim.engine import Engine
from sim.forking import sequences_of
from sim.recorder import Recorder
from workloads.request import Request

Completed = Callable[[Request, float], None]


class Pool:
    """Engines that do the same, the router before them, and what they have to do."""

    def __init__(self, engines: list[Engine], router: Router) -> None:
        self.engines = engines
        self.router = router
        self.loads = [Load() for _ in engines]
        self.taken = [0] * len(engines)
        """Requests that each engine was ever given."""
        self._places: dict[int, tuple[int, int]] = {}

    def place(self, request: Request) -> int:
        """Choose an engine for ``request``, which counts as its load from now on."""
        place = self.router.choose(request, self.loads)
        tokens = request.prompt + request.output * sequences_of(request)
        self.loads[place].requests += 1
        self.loads[place].tokens += tokens
        self.taken[place] += 1
        self._places[request.id] = place, tokens
        return place

    def leave(self, request: Request) -> int:
        """The request is done; answers where it was."""
        place, tokens = self._places.pop(request.id)
        self.loads[place].requests -= 1
        self.loads[place].tokens -= tokens
        return place


class Cluster:
    """One pool of engines. ``on_completed(request, seconds)`` is called once a request.

    served: where each sequence was, if there is more than one engine.
    """

    def __init__(self, pool: Pool, on_completed: Completed) -> None:
        self.pool = pool
        self.served: list[Served] = []
        self._on_completed = on_completed
        self._seen = [0] * len(self.engines)

    @property
    def engines(self) -> list[Engine]:
        """All of them; their places here are the numbers of the replicas."""
        return self.pool.engines

    def submit(self, request: Request) -> None:
        """Send a request that arrives now to a replica."""
        self.pool.engines[self.pool.place(request)].submit(request)

    def completed(self, request: Request, at: float) -> None:
        """A replica has completed a request, or given it up."""
        engine = self.pool.leave(request)
        if len(self.engines) > 1:
            self._note(engine)
        self._on_completed(request, at)

    def _note(self, engine: int) -> None:
        """Take note of the rows that are new in an engine's record."""
        rows = self.engines[engine].recorder.rows
        for line in range(self._seen[engine], len(rows)):
            row = rows[line]
            begin = self._begin_of(row["request"])
            self.served.append(Served(Row(engine, line), begin, row["output"]))
        self._seen[engine] = len(rows)

    def _begin_of(self, request: int) -> Row | None:
        """The row where a request began, if it did elsewhere."""
        del request
        return None

    def record(self) -> Recorder:
        """What all engines have recorded, as one; of a single engine its own."""
        parts = [engine.recorder for engine in self.engines]
        return MergedRecorder(parts, self.served) if len(parts) > 1 else parts[0]
