"""Mooncake's public traces (kvcache-ai/Mooncake, FAST'25 release) and what others made of them.

The dialects are those of NVIDIA Dynamo (``lib/data-gen/src/mooncake.rs``) and AIPerf
(``docs/benchmark-modes/trace-replay.md``): other names for the lengths and times, and sessions
whose rows are sent one after the other, a ``delay`` after the end of the one in front.
"""

from __future__ import annotations

from collections import Counter
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
from workloads.traces.undated import Undated

_ALIASES = {
    "input_tokens": "input_length",
    "output_tokens": "output_length",
    "created_time": "timestamp",
    "delay_ms": "delay",
}
_NEEDED = frozenset({"input_length", "output_length"})
_OWN = _NEEDED | {"timestamp", "hash_ids", "session_id", "delay"}
_UNUSED = frozenset(
    "request_id priority strict_priority policy_class routing_constraints output_token_ids "
    "type extra context_mode message_mode id model user user_id turn round".split()
)
_CHECKED_IDS = 10**6
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
    whole prompt, or, with ``turns=added``, what it adds to the prompts and outputs before it. To
    find the ends of sessions such a file is read twice.
    """

    name = "mooncake"

    block_size: int = option(512, "tokens of a block that has an id", low=1, high=MAX_TOKENS)
    turns: Literal["whole", "added"] = option(
        "whole", "input_length of later turns: the whole prompt, or what the turn adds (added)"
    )

    @classmethod
    def sniff(cls, head: Head) -> bool:
        """Both lengths under either name, and something of a trace beside them."""
        keys = {_ALIASES.get(key, key) for key in head.keys}
        traced = {"timestamp", "hash_ids", "session_id", "delay"} & keys
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
        """A session a row, or all rows with the same ``session_id``."""
        ids = count()
        for session in self._grouped(source):
            for place, request in enumerate(session):
                request.id = next(ids)
                request.after = (session[place - 1].id,) if place else ()
            yield session

    def _grouped(self, source: Lines) -> Iterator[Session]:
        """Whole sessions in the order of their first rows; holds what stands in between."""
        sizes = self._sizes()
        rows = _Rows(self, source)
        held: dict[object, Session] = {}
        for number, (key, request) in enumerate(rows):
            # A row without a session is one of its own, under a key that no text equals.
            held.setdefault(number if key is None else key, []).append(request)
            while held:
                first = next(iter(held))
                if len(held[first]) < sizes.get(first, 1):
                    break
                yield held.pop(first)

    def _sizes(self) -> Counter[object]:
        lines = self.source()
        return Counter(_row(lines, text)["session_id"] for text in lines if '"session_id"' in text)


class _Rows:
    """The requests of the file with their sessions, and what has to be known from row to row."""

    def __init__(self, trace: Mooncake, lines: Lines) -> None:
        self._trace = trace
        self._lines = lines
        self._parents: dict[int, int] = {}
        self._last: dict[object, tuple[Request, float | None]] = {}
        self._conversations = count()

    def __iter__(self) -> Iterator[tuple[object, Request]]:
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
            before, before_at = self._last.get(key, (None, None)) if key else (None, None)
            request = self._request(row, number, before)
            if before is not None:
                request.arrival = self._pause(row, at, before_at)
                request.conversation, request.turn = before.conversation, before.turn + 1
            elif self._trace.is_dated:
                if at is None or first is None:
                    raise lines.error("expected a timestamp, as the first row has one")
                lines.check_order(latest, (at - first) / 1e3)
                request.arrival = latest = (at - first) / 1e3
            if key is not None:
                if before is None:
                    request.conversation = next(self._conversations)
                self._last[key] = request, at
            yield key, request

    def _pause(self, row: dict[str, Any], at: float | None, before_at: float | None) -> float:
        """Seconds between the end of the turn in front and this one."""
        if row.get("delay") is not None:
            return self._lines.seconds(row, "delay", _MILLISECOND)
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
        blocks = self._blocks(row["hash_ids"], prompt)
        _check_chain(lines, row["hash_ids"], self._parents)
        return Request(0, 0.0, prompt, output, (*blocks, (OUTPUTS + number, prompt + output)))

    def _blocks(self, ids: Any, prompt: int) -> PrefixPath:
        """The part of the path that covers the prompt."""
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
                f"{prompt}, got {len(ids)}"
            )
        ends = [*range(size, prompt, size), prompt]
        return tuple(zip(ids, ends, strict=False))


def _row(lines: Lines, text: str) -> dict[str, Any]:
    """The row under the original names, empty fields left out; raises `InputError`."""
    given = lines.object_of(text)
    row = {_ALIASES.get(key, key): value for key, value in given.items()}
    if len(row) < len(given):
        raise lines.error("expected every field under one name, got two of them twice")
    lines.needs(row, *sorted(_NEEDED))
    if extra := sorted(row.keys() - _OWN - _UNUSED):
        raise lines.error(
            f"expected the fields of Mooncake traces; got a row with {shortened(', '.join(extra))}"
        )
    if not isinstance(row.get("session_id"), str | int | None):
        raise lines.error(f"session_id: expected text, got {shortened(row['session_id'])}")
    optional = ("timestamp", "session_id", "delay")
    return {key: row[key] for key in row if row[key] is not None or key not in optional}


def _check_chain(lines: Lines, ids: list[int], parents: dict[int, int]) -> None:
    """Raise `InputError` where an id has another one in front of it than the last time."""
    before = [-1, *ids[:-1]]
    learn = parents.setdefault if len(parents) < _CHECKED_IDS else parents.get
    if any(map(ne, map(learn, ids, before), before)):
        wrong = next(i for i, b in zip(ids, before, strict=True) if parents[i] != b)
        raise lines.error(f"hash_ids: expected equal ids after equal prefixes only, not {wrong}")
