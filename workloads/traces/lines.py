"""Text files line by line, with errors that name the line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from workloads.errors import InputError
from workloads.lengths import MAX_TOKENS

MAX_SECONDS = 1e9
"""No trace is believed to last longer than this (some thirty years)."""


class Lines:
    """Reads a text file once, one line in memory at a time, and knows where it is.

    Lines come without their ends. Empty lines are allowed only at the end of the file.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.number = 0

    def __iter__(self) -> Iterator[str]:
        """The lines; raises `InputError` when the file cannot be read."""
        empty = 0
        try:
            with open(self.path, encoding="utf-8-sig") as file:
                for self.number, line in enumerate(file, 1):
                    text = line.rstrip("\n")
                    if not text.strip():
                        empty = empty or self.number
                        continue
                    if empty:
                        self.number = empty
                        raise self.error("expected no empty line in the middle")
                    yield text
        except OSError as error:
            raise InputError(f"{self.path}: cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            self.number += 1
            raise self.error("expected UTF-8 text") from error

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

    def whole(self, row: dict[str, Any], key: str, low: int, high: int = MAX_TOKENS) -> int:
        """The whole number ``row[key]`` within low .. high; raises `InputError`."""
        value = row[key]
        if type(value) is not int or not low <= value <= high:
            raise self.error(
                f"{key}: expected a whole number from {low} to {high}, got {shortened(value)}"
            )
        return value

    def seconds(self, row: dict[str, Any], key: str, unit: float = 1.0) -> float:
        """The time ``row[key]``, counted in ``unit`` seconds, as seconds; raises `InputError`."""
        value = row[key]
        if type(value) not in (int, float) or not 0 <= value <= MAX_SECONDS / unit:
            raise self.error(f"{key}: expected a finite time of 0 or later, got {shortened(value)}")
        return float(value * unit)

    def keys(self, row: dict[str, Any], expected: frozenset[str]) -> None:
        """Raise `InputError` unless ``row`` has exactly the expected keys."""
        if row.keys() != expected:
            missing, extra = sorted(expected - row.keys()), sorted(row.keys() - expected)
            what = [f"without {', '.join(missing)}"] if missing else []
            what += [f"with {shortened(', '.join(extra))}"] if extra else []
            raise self.error(
                f"expected the fields {', '.join(sorted(expected))}; got a row {' and '.join(what)}"
            )


def shortened(value: Any) -> str:
    """``value`` as it stands in an error line: at most some sixty characters."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
