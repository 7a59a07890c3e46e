"""Azure's public LLM inference traces (AzurePublicDataset, 2023 and 2024)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from workloads.lengths import MAX_TOKENS
from workloads.request import Request
from workloads.traces.base import LineTrace
from workloads.traces.columns import cells_of, header_of
from workloads.traces.head import Head
from workloads.traces.lines import MAX_SECONDS, Lines, shortened

_COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
_STAMP = re.compile(
    r"(\d{4}-\d\d-\d\d[ T]\d\d:\d\d):([0-5]\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)?", re.ASCII
)
_ROW = re.compile(rf"{_STAMP.pattern},(\d{{1,15}}),(\d{{1,15}})", re.ASCII)
_TOKENS = re.compile(r"(\d{1,15})(?:\.0*)?", re.ASCII)


@dataclass(frozen=True)
class Azure(LineTrace):
    """Azure LLM inference traces: CSV of TIMESTAMP, ContextTokens, GeneratedTokens.

    Arrivals count from the first row; fractions of a second are kept to the last digit. The
    trace has no identity of tokens.
    """

    name = "azure"
    prefix_identity = "none: the trace has lengths only"

    @classmethod
    def sniff(cls, head: Head) -> bool:
        """The header of both years."""
        return head.columns >= set(_COLUMNS)

    def rows(self, lines: Lines) -> Iterator[Request]:
        """One request a row after the header."""
        texts = iter(lines)
        header = next(texts, None)
        if header is None:
            return
        columns = header_of(lines, header, _COLUMNS)
        is_usual = columns == list(_COLUMNS)
        minute, zero = "", 0
        first: int | None = None
        for number, text in enumerate(texts):
            match = _ROW.fullmatch(text) if is_usual else None
            found = match.groups() if match else _cells(lines, text, columns)
            stamp, seconds, fraction, offset, context, generated = found
            # Whole nanoseconds: a float of seconds since 1970 would lose the seventh digit.
            if stamp + (offset or "") != minute:
                minute = stamp + (offset or "")
                zero = _nanoseconds(lines, stamp, offset)
            at = zero + int(seconds) * 10**9
            if fraction:
                at += int(fraction) * 10 ** (9 - len(fraction))
            if first is None:
                first = at
            prompt, output = int(context), int(generated)
            if max(prompt, output) > MAX_TOKENS:
                raise lines.error(
                    f"expected at most {MAX_TOKENS} tokens, got ContextTokens {prompt} and "
                    f"GeneratedTokens {output}"
                )
            arrival = (at - first) / 1e9
            if arrival > MAX_SECONDS:
                raise lines.error(f"expected a trace of at most {MAX_SECONDS:g} s, got {arrival:g}")
            yield Request(number, arrival, prompt, output)


def _cells(lines: Lines, text: str, columns: list[str]) -> tuple[str, ...]:
    """What `_ROW` finds, in a row with quotes, blanks, or columns of another order."""
    found = cells_of(text)
    cells = dict(zip(columns, found, strict=True)) if len(found) == len(columns) else {}
    matches = [
        rule.fullmatch(cells.get(name, ""))
        for name, rule in zip(_COLUMNS, (_STAMP, _TOKENS, _TOKENS), strict=True)
    ]
    if None in matches:
        raise lines.error(
            "expected YYYY-MM-DD HH:MM:SS.fffffff,ContextTokens,GeneratedTokens "
            f"(whole numbers), got {shortened(text)}"
        )
    return tuple(group for match in matches if match for group in match.groups())


def _nanoseconds(lines: Lines, stamp: str, offset: str | None) -> int:
    try:
        minute = datetime.fromisoformat(stamp + (offset or ""))
    except ValueError as error:
        raise lines.error(f"expected a date and time that exist, got {stamp}") from error
    return int((minute if offset else minute.replace(tzinfo=UTC)).timestamp()) * 10**9
