"""kvlab's own trace format: everything a request has, nothing else.

The first line is ``{"format": "kvlab-requests", "version": 1}``; it may also say how many
``requests`` follow (so that a file cut short is noticed), their ``prefix_identity``, and how many
``clients`` send them in a closed loop. Every other line is a request: a JSON object with exactly
the fields of `Request`, times in seconds, ``path`` as ``[[branch, end], ...]`` or null, ids rising.

``after`` is what makes a request one of the session in front of it: the ids of earlier requests of
that session whose ends this one waits for; its ``arrival`` is then the pause after the last of
them, or, where the list is empty, the time after the start of the session's first request. One
without ``after`` begins a session: it arrives at ``arrival``, in order, or, with ``clients``, that
many seconds after its client became free. A session stands in one piece.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

from workloads.errors import InputError
from workloads.prefix import check_path
from workloads.request import PrefixPath, Request, Session
from workloads.traces.base import Trace
from workloads.traces.head import Head
from workloads.traces.lines import Lines, shortened

FORMAT = "kvlab-requests"
VERSION = 1

FIELDS = tuple(each.name for each in fields(Request) if each.name != "after")
_FIELD_SET = frozenset(FIELDS)
_HEADER_FIELDS = {"format", "version", "requests", "prefix_identity", "clients"}
_HIGHEST = 2**63 - 1


@dataclass(frozen=True)
class Jsonl(Trace[Lines]):
    """kvlab's own format: one JSON object a request, with all its fields and its prefix path."""

    name = "jsonl"

    @classmethod
    def sniff(cls, head: Head) -> bool:
        """A header with the name of the format."""
        return not head.is_array and f'"{FORMAT}"' in head.text.partition("\n")[0]

    def source(self) -> Lines:
        """The lines."""
        return Lines(self.path)

    @cached_property
    def prefix_identity(self) -> str:
        """What the writer knew."""
        return str(self._header.get("prefix_identity", "unstated"))

    @cached_property
    def clients(self) -> int | None:
        """What the writer said."""
        return self._header.get("clients")

    @cached_property
    def _header(self) -> dict[str, Any]:
        lines = self.source()
        first = next(iter(lines), None)
        return {} if first is None else _header(lines, first)

    def recorded(self, source: Lines) -> Iterator[Session]:
        """The sessions after the header."""
        session: Session = []
        for begins, request in self._rows(source):
            if session and begins:
                yield session
                session = []
            session.append(request)
        if session:
            yield session

    def _rows(self, lines: Lines) -> Iterator[tuple[bool, Request]]:
        """Whether a request begins a session, and the request."""
        texts = iter(lines)
        first = next(texts, None)
        if first is None:
            return
        expected = _header(lines, first).get("requests")
        found, last_id, before = 0, -1, 0.0
        session_ids: set[int] = set()
        for text in texts:
            row = lines.object_of(text)
            begins = "after" not in row
            after = () if begins else _after(lines, row.pop("after"), session_ids)
            request = _request(lines, row, last_id)
            request.after = after
            if begins:
                session_ids.clear()
                if self.is_dated:
                    lines.check_order(before, request.arrival)
                before = request.arrival
            session_ids.add(request.id)
            found, last_id = found + 1, request.id
            yield begins, request
        if expected is not None and found != expected:
            raise lines.error(f"expected {expected} requests as the header says, got {found}")


def _header(lines: Lines, text: str) -> dict[str, Any]:
    row = lines.object_of(text)
    if row.get("format") != FORMAT or row.get("version") != VERSION or row.keys() - _HEADER_FIELDS:
        raise lines.error(
            f'expected the header {{"format": "{FORMAT}", "version": {VERSION}}}, '
            f"got {shortened(text)}"
        )
    if "requests" in row:
        lines.whole(row, "requests", 0)
    if "clients" in row:
        lines.whole(row, "clients", 1)
    return row


def _after(lines: Lines, value: Any, session_ids: set[int]) -> tuple[int, ...]:
    if (
        type(value) is not list
        or not session_ids
        or not all(type(each) is int and each in session_ids for each in value)
        or len(set(value)) < len(value)
    ):
        raise lines.error(
            f"after: expected ids of earlier requests of the same session, got {shortened(value)}"
        )
    return tuple(value)


def _request(lines: Lines, row: dict[str, Any], last_id: int) -> Request:
    lines.keys(row, _FIELD_SET)
    lines.whole(row, "id", last_id + 1, _HIGHEST)
    row["arrival"] = lines.seconds(row, "arrival")
    length = lines.whole(row, "prompt", 1) + lines.whole(row, "output", 1)
    row["path"] = _path(lines, row["path"], length)
    if row["conversation"] is not None:
        lines.whole(row, "conversation", 0, _HIGHEST)
    lines.whole(row, "turn", 0)
    lines.whole(row, "samples", 1)
    lines.whole(row, "beam_width", 1)
    lines.whole(row, "priority", -_HIGHEST, _HIGHEST)
    if type(row["slo_class"]) is not str:
        raise lines.error(f"slo_class: expected text, got {shortened(row['slo_class'])}")
    return Request(**row)


def _path(lines: Lines, value: Any, length: int) -> PrefixPath | None:
    if value is None:
        return None
    try:
        path = tuple((branch, end) for branch, end in value)
        check_path(path, length)
    except (TypeError, ValueError) as error:
        why = error if isinstance(error, InputError) else "expected [[branch, end], ...] or null"
        raise lines.error(f"path: {why}") from error
    return path
