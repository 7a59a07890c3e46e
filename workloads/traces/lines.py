"""Text files line by line, with errors that name the line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from workloads.errors import InputError
from workloads.lengths import MAX_TOKENS
from workloads.traces.files import opened, readable, text_of

MAX_SECONDS = 1e9
"""No trace is believed to last longer than this (some thirty years)."""


class Source:
    """Where requests come from, for errors that name the place. ``number`` counts from 1."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.number = 0

    def check(self) -> None:
        """Raise `InputError` unless there is a file that can be read."""
        with readable(self.path), opened(self.path):
            pass

    def error(self, expected: str) -> InputError:
        """The error to raise about the current line."""
        return InputError(f"{self.path}:{self.number}: {expected}")

    def object_of(self, text: str) -> dict[str, Any]:
        """The JSON object on the current line; raises `InputError`."""
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise self.error(f"expected one JSON object, got {shortened(text)}") from error
        if type(value) is not dict:
            raise self.error(f"expected one JSON object, got {shortened(text)}")
        return value

    def check_order(self, before: float, at: float) -> None:
        """Raise `InputError` for a time (seconds) that lies before the last one."""
        if at < before:
            raise self.error(f"expected times in order, got one {before - at:g} s before the last")

    def whole(self, row: dict[str, Any], key: str, low: int, high: int = MAX_TOKENS) -> int:
        """The whole number ``row[key]`` within low .. high, written as it may be; `InputError`."""
        value = row.get(key)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise self.error(
                f"{key}: expected a whole number from {low} to {high}, got {shortened(value)}"
            )
        return value

    def seconds(
        self, row: dict[str, Any], key: str, unit: float = 1.0, longest: float = MAX_SECONDS
    ) -> float:
        """The time ``row[key]``, counted in ``unit`` seconds, as seconds; raises `InputError`."""
        value = row.get(key)
        if (
            not isinstance(value, int | float)
            or isinstance(value, bool)
            or not 0 <= value <= longest / unit
        ):
            raise self.error(f"{key}: expected a finite time of 0 or later, got {shortened(value)}")
        return float(value * unit)

    def clock(self, row: dict[str, Any], key: str) -> float:
        """The time ``row[key]`` on a clock that may count from 1970 (seconds)."""
        return self.seconds(row, key, longest=10 * MAX_SECONDS)

    def needs(self, row: dict[str, Any], *keys: str) -> None:
        """Raise `InputError` unless ``row`` has all the ``keys``; others are welcome."""
        missing = [key for key in keys if key not in row]
        if missing:
            wanted = ", ".join(keys)
            raise self.error(f"expected the fields {wanted}; got a row without {missing[0]}")

    def keys(self, row: dict[str, Any], expected: frozenset[str]) -> None:
        """Raise `InputError` unless ``row`` has exactly the expected keys."""
        if row.keys() != expected:
            missing, extra = sorted(expected - row.keys()), sorted(row.keys() - expected)
            what = [f"without {', '.join(missing)}"] if missing else []
            what += [f"with {shortened(', '.join(extra))}"] if extra else []
            raise self.error(
                f"expected the fields {', '.join(sorted(expected))}; got a row {' and '.join(what)}"
            )


class Lines(Source):
    """Reads a text file once, one line in memory at a time, and knows where it is.

    Lines come without their ends. Empty lines are allowed only at the end of the file.
    """

    def __iter__(self) -> Iterator[str]:
        """The lines; raises `InputError` when the file cannot be read."""
        empty = 0
        try:
            with readable(self.path), text_of(self.path) as file:
                for self.number, line in enumerate(file, 1):
                    text = line.rstrip("\n")
                    if not text.strip():
                        empty = empty or self.number
                        continue
                    if empty:
                        self.number = empty
                        raise self.error("expected no empty line in the middle")
                    yield text
        except UnicodeDecodeError as error:
            self.number += 1
            raise self.error("expected UTF-8 text") from error


def shortened(value: Any) -> str:
    """``value`` as it stands in an error line: at most some sixty characters."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
