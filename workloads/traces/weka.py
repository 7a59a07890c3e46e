"""WEKA's traces of coding agents (callanjfox/kv-cache-tester, ``docs/trace_replay_tester.md``).

A trace is one JSON object, a conversation: ``block_size``, ``hash_id_scope`` and ``requests``,
each with ``t`` (seconds from the start of the conversation), ``in``, ``out`` and ``hash_ids`` of
blocks of 64 tokens, and mostly with ``api_time`` and ``think_time``. Among them stand agents that
the conversation sends off (``type`` ``subagent``), with requests of their own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any

from workloads.arrivals import Arrivals, ClosedLoop
from workloads.plugins import option
from workloads.request import Request, Session
from workloads.traces.base import Empty
from workloads.traces.blocks import BlockPaths
from workloads.traces.head import Head
from workloads.traces.items import Documents
from workloads.traces.lines import MAX_SECONDS, shortened
from workloads.traces.undated import Undated

_REQUESTS = ("n", "s")


@dataclass(frozen=True)
class Weka(Undated[Documents]):
    """WEKA agent traces: JSON of requests with t, in, out, hash_ids; a file or a directory.

    A conversation is a closed loop: each request follows the end of the one in front after its
    ``think_time`` or, where that is missing, after the time between the two less the first one's
    ``api_time``; in old traces without either that still holds the engine's time. Agents start
    together after the request in front of them and the next request waits for all of them, except
    for those that were launched asynchronously. Pauses are cut at ``longest_pause``, as the
    project's own replay cuts them.

    Ids are those of one conversation (``hash_id_scope`` ``local``) or of all (``global``); they
    are taken to stand for their block alone. Tokens beyond the full blocks that have ids, and
    outputs, are nobody else's. Requests of a conversation that overlapped in the recording are
    sent one after the other.
    """

    name = "weka"
    prefix_identity = "exact for prompts; lost: outputs that come back in the next prompt"
    takes_directories = True

    arrivals: Arrivals = option(ClosedLoop(8), "when conversations start")
    empty: Empty = option("one", "requests without a token in or out: refuse, skip, one (token)")
    longest_pause: float = option(60.0, "longest pause, seconds", low=0, high=MAX_SECONDS)

    @classmethod
    def sniff(cls, head: Head) -> bool:
        """Blocks and requests; the list may reach beyond the head."""
        return not head.is_array and head.keys >= {"block_size", "requests"}

    def source(self) -> Documents:
        """The conversations."""
        return Documents(self.path)

    def recorded(self, source: Documents) -> Iterator[Session]:
        """One session a conversation, its agents included."""
        ids, conversations = count(), count()
        paths: BlockPaths | None = None
        for document in source:
            if type(document) is not dict:
                raise source.error(f"expected an object, got {shortened(document)}")
            source.needs(document, "block_size", "requests")
            size = source.whole(document, "block_size", 1)
            if paths is None or paths.block_size != size:
                paths = BlockPaths(size)
            if document.get("hash_id_scope", "local") != "global":
                paths.forget()
            reader = _Conversation(self, source, paths, ids, conversations)
            if session := reader.session(document["requests"]):
                yield session


class _Conversation:
    """One conversation on its way from entries to requests."""

    def __init__(
        self,
        trace: Weka,
        source: Documents,
        paths: BlockPaths,
        ids: Iterator[int],
        conversations: Iterator[int],
    ) -> None:
        self._longest_pause = trace.longest_pause
        self._source = source
        self._paths = paths
        self._ids = ids
        self._conversations = conversations
        self._session: Session = []

    def session(self, entries: Any) -> Session:
        """All requests, each after those that it waits for."""
        own = next(self._conversations)
        waits: tuple[int, ...] = ()
        parent: tuple[int, ...] = ()
        parent_end = end = 0.0
        turn = 0
        for entry in self._objects(entries):
            at = self._source.seconds(entry, "t")
            if entry.get("type") in _REQUESTS:
                request = self._request(entry, waits, at - end, own, turn)
                turn += 1
                waits = parent = (request.id,)
                parent_end = end = at + _seconds(entry, "api_time")
            elif entry.get("type") == "subagent":
                last = self._agent(entry, at, parent or self._root, at - parent_end)
                if last is not None and entry.get("status") != "async_launched":
                    waits = (last, *(each for each in waits if each not in parent))
                    end = max(end, at + _seconds(entry, "duration_ms") / 1e3)
            else:
                raise self._source.error(
                    f"type: expected n, s or subagent, got {shortened(entry.get('type'))}"
                )
        return self._session

    @property
    def _root(self) -> tuple[int, ...]:
        return (self._session[0].id,) if self._session else ()

    def _agent(
        self, entry: dict[str, Any], at: float, parent: tuple[int, ...], pause: float
    ) -> int | None:
        """The requests of an agent; the id of its last one, if it has any."""
        own = next(self._conversations)
        waits, end = parent, None
        for turn, inner in enumerate(self._objects(entry.get("requests"))):
            then = self._source.seconds(inner, "t")
            # Nested times count from the conversation's start in some releases, from ``at`` in
            # others.
            gap = pause + (then - at if then >= at else then) if end is None else then - end
            request = self._request(inner, waits, gap, own, turn)
            waits, end = (request.id,), then + _seconds(inner, "api_time")
        return None if end is None else waits[0]

    def _request(
        self, entry: dict[str, Any], waits: tuple[int, ...], gap: float, own: int, turn: int
    ) -> Request:
        source = self._source
        source.needs(entry, "in", "out")
        prompt, output = source.whole(entry, "in", 0), source.whole(entry, "out", 0)
        ids = entry.get("hash_ids", [])
        path = self._paths.path(source, ids, prompt, output, full_only=True)
        pause = _seconds(entry, "think_time") if entry.get("think_time") is not None else gap
        pause = min(max(0.0, pause), self._longest_pause) if waits or self._session else 0.0
        request = Request(
            next(self._ids), pause, prompt, output, path, own, turn, after=waits or self._root
        )
        self._session.append(request)
        return request

    def _objects(self, value: Any) -> list[dict[str, Any]]:
        if type(value) is not list or not all(type(each) is dict for each in value):
            raise self._source.error(
                f"requests: expected a list of objects, got {shortened(value)}"
            )
        return value


def _seconds(entry: dict[str, Any], key: str) -> float:
    """A span that may be missing, and that recordings have below 0 now and then."""
    value = entry.get(key)
    if not isinstance(value, int | float) or not -MAX_SECONDS < value < 1e3 * MAX_SECONDS:
        return 0.0
    return float(value)
