"""Mooncake's public traces (kvcache-ai/Mooncake, FAST'25 release) and what others made of them.

The dialects are those of NVIDIA Dynamo (``lib/data-gen/src/mooncake.rs``) and AIPerf
(``docs/benchmark-modes/trace-replay.md``): other names for the lengths and times, sessions whose
rows are sent one after the other, a ``delay`` after the end of the one in front, and Dynamo's
agentic rows (``AgenticMooncakeRow``, version 1), which name the rows that they ``wait_for``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from operator import ne
from typing import Any, Literal

from workloads.lengths import MAX_TOKENS
from workloads.plugins import option
from workloads.request import OUTPUTS, PrefixPath, Request, Session
from workloads.traces.head import Head
from workloads.traces.lines import Lines, shortened
from workloads.traces.links import Links
from workloads.traces.undated import Undated

_ALIASES = {
    "input_tokens": "input_length",
    "output_tokens": "output_length",
    "created_time": "timestamp",
    "delay_ms": "delay",
}
_NEEDED = frozenset({"input_length", "output_length"})
_OPTIONAL = ("timestamp", "hash_ids", "session_id", "delay", "request_id", "wait_for")
_OF_VERSION_2 = frozenset({"dependencies", "not_before_ms"})
_LINKED = ('"session_id"', '"wait_for"')
_VERSION_2 = "dynamo.agentic_mooncake"
_KNOWN_IDS = 10**6
_MILLISECOND = 1e-3


@dataclass(frozen=True)
class Mooncake(Undated[Lines]):
    """Mooncake traces: JSONL of timestamp (ms), input_length, output_length, hash_ids.

    A hash id stands for one block of the prompt and all before it: equal id, equal prefix. The
    last block may be a part of one. So hash ids are the branches of the prefix path; the output
    has a private one. Whether ids do chain is checked on the first million of them. Arrivals
    count from the first row; a file without any timestamp has its arrivals drawn.

    Rows with the same ``session_id`` are a closed loop: each is sent ``delay`` milliseconds, or
    the difference of the timestamps, after the end of the row in front of it. A row holds its
    whole prompt, or, with ``turns=added``, what it adds to the prompts and outputs before it.

    A row with ``wait_for`` is sent ``delay`` and ``tool_wait_ms`` milliseconds after the last end
    of the rows with these ``request_id``. In such a file rows of one ``session_id`` are turns of a
    conversation, and those that have a timestamp, no delay and wait for nobody start then. All
    rows that hang together are one session. Files with sessions are read twice.
    """

    name = "mooncake"

    block_size: int = option(512, "tokens of a block that has an id", low=1, high=MAX_TOKENS)
    turns: Literal["whole", "added"] = option(
        "whole", "input_length of later turns: the whole prompt, or what the turn adds (added)"
    )

    @classmethod
    def sniff(cls, head: Head) -> bool:
        """Both lengths under either name, and something of a trace beside them."""
        if not head.is_array and _VERSION_2 in head.text.partition("\n")[0]:
            return True
        keys = {_ALIASES.get(key, key) for key in head.keys}
        traced = keys.intersection(_OPTIONAL)
        return not head.is_array and keys >= _NEEDED and bool(traced) and "chat_id" not in keys

    def source(self) -> Lines:
        """The lines."""
        return Lines(self.path)

    @cached_property
    def is_dated(self) -> bool:
        """Whether the first row has a timestamp."""
        return "timestamp" in self._first_row

    @cached_property
    def prefix_identity(self) -> str:
        """Exact where the first row has ids."""
        return "exact" if "hash_ids" in self._first_row else "none: the file has lengths only"

    @cached_property
    def _first_row(self) -> dict[str, Any]:
        lines = self.source()
        text = next(iter(lines), None)
        return {} if text is None else _row(lines, text)

    def recorded(self, source: Lines) -> Iterator[Session]:
        """A session a row, or all rows that wait for each other."""
        links = self._links()
        rows = iter(_Rows(self, source, links))
        if links is not None:
            yield from links.sessions(rows)
            return
        for number, request in enumerate(rows):
            request.id = number
            yield [request]

    def _links(self) -> Links | None:
        """What waits for what; None where nothing does."""
        lines = self.source()
        if not any(mark in text for text in lines for mark in _LINKED):
            return None
        links = Links(self.path)
        for text in lines:
            row = _row(lines, text)
            waits = tuple(row.get("wait_for", ()))
            if waits and self.turns == "added":
                raise lines.error("wait_for: cannot be used with turns=added")
            opens = "timestamp" in row and "delay" not in row
            links.add(lines, row.get("request_id"), waits, row.get("session_id"), opens)
        links.close()
        return links


class _Rows:
    """The requests of the file, and what has to be known from row to row."""

    def __init__(self, trace: Mooncake, lines: Lines, links: Links | None) -> None:
        self._trace = trace
        self._lines = lines
        self._links = links
        self._parents: dict[int, int] = {}
        self._branches = _Branches()
        self._last: dict[object, tuple[Request, float | None]] = {}
        self._conversations = count()

    def __iter__(self) -> Iterator[Request]:
        """Requests with their own start or, where they wait, their pause (seconds)."""
        first: float | None = None
        latest = 0.0
        lines = self._lines
        for number, text in enumerate(lines):
            row = _row(lines, text)
            at = None
            if "timestamp" in row:
                # Milliseconds are subtracted as they stand, so that equal gaps stay equal.
                lines.seconds(row, "timestamp", _MILLISECOND)
                at = row["timestamp"]
                first = at if first is None else first
            key = row.get("session_id")
            before, before_at = (None, None) if key is None else self._last.get(key, (None, None))
            request = self._request(row, number, before)
            if self._links is not None and self._links.after[number]:
                request.arrival = self._pause(row, at, before_at)
            elif self._trace.is_dated:
                if at is None or first is None:
                    raise lines.error("expected a timestamp, as the first row has one")
                lines.check_order(latest, (at - first) / 1e3)
                request.arrival = latest = (at - first) / 1e3
            if key is not None:
                request.conversation, request.turn = (
                    (next(self._conversations), 0)
                    if before is None
                    else (before.conversation, before.turn + 1)
                )
                self._last[key] = request, at
            yield request

    def _pause(self, row: dict[str, Any], at: float | None, before_at: float | None) -> float:
        """Seconds between the last of the ends that the row waits for and its start."""
        spans = [name for name in ("delay", "tool_wait_ms") if name in row]
        if spans or row.get("wait_for"):
            return sum((self._lines.seconds(row, name, _MILLISECOND) for name in spans), 0.0)
        if at is None or before_at is None:
            return 0.0
        self._lines.check_order(before_at, at)
        return (at - before_at) / 1e3

    def _request(self, row: dict[str, Any], number: int, before: Request | None) -> Request:
        lines = self._lines
        prompt = lines.whole(row, "input_length", 0)
        output = lines.whole(row, "output_length", 0)
        if before is not None and self._trace.turns == "added":
            prompt += before.prompt + before.output
            path = before.path
            if path is not None:
                # What follows the first turn belongs to the session alone.
                path = (*path[:-1], (path[-1][0], prompt + output))
            return Request(0, 0.0, prompt, output, path)
        if "hash_ids" not in row:
            if self._trace.prefix_identity == "exact":
                raise lines.error("expected hash_ids, as the first row has them")
            return Request(0, 0.0, prompt, output)
        ids = self._ids(row["hash_ids"], prompt)
        _check_chain(lines, ids, self._parents)
        path = self._branches.path(ids, self._trace.block_size, prompt)
        return Request(0, 0.0, prompt, output, (*path, (OUTPUTS + number, prompt + output)))

    def _ids(self, ids: Any, prompt: int) -> list[int]:
        """The ids of the prompt's blocks."""
        lines, size = self._lines, self._trace.block_size
        blocks = -(-prompt // size)
        if type(ids) is not list or set(map(type, ids)) - {int} or (blocks and not ids):
            raise lines.error(f"hash_ids: expected a list of whole numbers, got {shortened(ids)}")
        if ids and (min(ids) < 0 or max(ids) >= OUTPUTS):
            raise lines.error(
                f"hash_ids: expected numbers from 0 below 2**62, got {shortened(ids)}"
            )
        if len(ids) != blocks:
            raise lines.error(
                f"hash_ids: expected {blocks} blocks of {size} for input_length "
                f"{prompt}, got {len(ids)}; block_size=N sets another size"
            )
        return ids


class _Branches:
    """Blocks that follow one another, as branches: named after their first block.

    A block that nobody has seen goes on with the branch of the block before it, if that one was
    the last of it so far; otherwise it begins one. A branch, once given, stays.
    """

    def __init__(self) -> None:
        self._of: dict[int, int] = {}
        self._last: dict[int, int] = {}
        """By branch: its last block so far."""

    def path(self, ids: list[int], size: int, length: int) -> PrefixPath:
        """Of blocks of ``size`` tokens, the last of which may be shorter: ``length`` in all."""
        path: list[tuple[int, int]] = []
        before = current = -1
        for place, block in enumerate(ids):
            branch = self._of.get(block)
            if branch is None:
                branch = self._new(block, before, current)
            if branch != current and place:
                path.append((current, place * size))
            before, current = block, branch
        return (*path, (current, length)) if ids else ()

    def _new(self, block: int, before: int, branch: int) -> int:
        if len(self._of) >= _KNOWN_IDS:
            return block
        if self._last.get(branch) != before:
            branch = block
        self._of[block] = branch
        self._last[branch] = block
        return branch


def _row(lines: Lines, text: str) -> dict[str, Any]:
    """The row under the original names, empty fields left out; raises `InputError`."""
    given = lines.object_of(text)
    if given.get("schema") == _VERSION_2 or given.keys() & _OF_VERSION_2:
        raise lines.error(
            "expected agentic rows with wait_for; got those of version 2, whose dependencies have "
            "triggers and pauses of their own: they are not read"
        )
    row = {_ALIASES.get(key, key): value for key, value in given.items()}
    if len(row) < len(given):
        raise lines.error("expected every field under one name, got two of them twice")
    lines.needs(row, *sorted(_NEEDED))
    for name in ("session_id", "request_id"):
        if not isinstance(row.get(name), str | int | None):
            raise lines.error(f"{name}: expected text, got {shortened(row[name])}")
    row = {key: row[key] for key in row if row[key] is not None or key in _NEEDED}
    waits = row.get("wait_for", [])
    if type(waits) is not list or not all(isinstance(each, str | int) for each in waits):
        raise lines.error(f"wait_for: expected a list of request ids, got {shortened(waits)}")
    return row


def _check_chain(lines: Lines, ids: list[int], parents: dict[int, int]) -> None:
    """Raise `InputError` where an id has another one in front of it than the last time."""
    before = [-1, *ids[:-1]]
    learn = parents.setdefault if len(parents) < _KNOWN_IDS else parents.get
    if any(map(ne, map(learn, ids, before), before)):
        wrong = next(i for i, b in zip(ids, before, strict=True) if parents[i] != b)
        raise lines.error(f"hash_ids: expected equal ids after equal prefixes only, not {wrong}")
