"""kvlab's own trace format: everything a request has, nothing else.

The first line is ``{"format": "kvlab-requests", "version": 1}``; it may also say how many
``requests`` follow (so that a file cut short is noticed) and their ``prefix_identity``. Every
other line is a request: a JSON object with exactly the fields of `Request`, times in seconds,
``path`` as ``[[branch, end], ...]`` or null, in order of arrival, ids rising.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

from workloads.errors import InputError
from workloads.prefix import check_path
from workloads.request import PrefixPath, Request
from workloads.traces.base import Trace
from workloads.traces.lines import Lines, shortened

FORMAT = "kvlab-requests"
VERSION = 1

FIELDS = tuple(each.name for each in fields(Request) if each.name != "after")
_FIELD_SET = frozenset(FIELDS)
_HEADER_FIELDS = {"format", "version", "requests", "prefix_identity"}
_HIGHEST = 2**63 - 1


@dataclass(frozen=True)
class Jsonl(Trace):
    """kvlab's own format: one JSON object a request, with all its fields and its prefix path."""

    name = "jsonl"

    @cached_property
    def prefix_identity(self) -> str:
        """What the writer knew."""
        lines = Lines(self.path)
        return str(_header(lines, next(iter(lines), "")).get("prefix_identity", "unstated"))

    def rows(self, lines: Lines) -> Iterator[Request]:
        """One request a line after the header."""
        texts = iter(lines)
        first = next(texts, None)
        if first is None:
            return
        expected = _header(lines, first).get("requests")
        found, last_id = 0, -1
        for text in texts:
            request = _request(lines, lines.object_of(text), last_id)
            found, last_id = found + 1, request.id
            yield request
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
    return row


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
