"""JSON documents read piece by piece: elements of an array, members of an object.

A report of a benchmark holds texts that nobody needs here and may be far larger than memory
should be. What is not asked for is passed over without being kept.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from json import JSONDecoder
from typing import IO, Any

from workloads.errors import InputError
from workloads.traces.files import readable, text_of
from workloads.traces.lines import Source

_CHUNK = 1 << 16


class Items(Source):
    """The elements of one array in a JSON document, one in memory at a time.

    where: names of members and numbers of elements that lead from the root to the array.
    """

    def __init__(self, path: str, where: tuple[str | int, ...] = ()) -> None:
        super().__init__(path)
        self.where = where

    def __iter__(self) -> Iterator[Any]:
        """The elements; raises `InputError` for anything but JSON with an array in that place."""
        self.number = 0
        with _opened(self.path) as file:
            scanner = _Scanner(file, self)
            for step in self.where:
                scanner.enter(step)
            for _ in scanner.elements():
                self.number += 1
                yield scanner.value()

    def error(self, expected: str) -> InputError:
        """The error to raise about the current element."""
        return InputError(f"{self.path}: element {self.number}: {expected}")


class Documents(Source):
    """JSON documents: one or more in a file, or those of all ``.json`` files of a directory."""

    def __iter__(self) -> Iterator[Any]:
        """The documents, files by name; raises `InputError` for anything but JSON."""
        self.number = 0
        for path in self._files():
            with _opened(path) as file:
                scanner = _Scanner(file, self)
                while not scanner.is_at_end:
                    self.number += 1
                    yield scanner.value()

    def check(self) -> None:
        """Raise `InputError` unless there is something that can be read."""
        for path in self._files()[:1]:
            _opened(path).close()

    def error(self, expected: str) -> InputError:
        """The error to raise about the current document."""
        return InputError(f"{self.path}: document {self.number}: {expected}")

    def _files(self) -> list[str]:
        if not os.path.isdir(self.path):
            return [self.path]
        names = sorted(name for name in os.listdir(self.path) if name.endswith(".json"))
        return [os.path.join(self.path, name) for name in names]


def members_of(path: str, names: frozenset[str]) -> dict[str, Any]:
    """Those members of the one object in the file that ``names`` has; raises `InputError`."""
    found = {}
    with _opened(path) as file:
        scanner = _Scanner(file, Source(path))
        for name in scanner.members():
            if name in names:
                found[name] = scanner.value()
            else:
                scanner.skip()
        if not scanner.is_at_end:
            raise InputError(f"{path}: expected one JSON object, got more after its end")
    return found


def _opened(path: str) -> IO[str]:
    with readable(path):
        return text_of(path)


class _Scanner:
    """Walks through JSON text, holding little more than the value under the cursor."""

    def __init__(self, file: IO[str], source: Source) -> None:
        self._file = file
        self._source = source
        self._decode = JSONDecoder().raw_decode
        self._text = ""
        self._at = 0
        self._ended = False

    @property
    def is_at_end(self) -> bool:
        """Whether nothing but blanks is left."""
        return not self._peek()

    def enter(self, step: str | int) -> None:
        """Go to a member or an element of the value under the cursor."""
        if isinstance(step, str):
            for name in self.members():
                if name == step:
                    return
                self.skip()
        else:
            for number, _ in enumerate(self.elements()):
                if number == step:
                    return
                self.skip()
        raise InputError(
            f"{self._source.path}: expected JSON with {step!r} on the way to the requests"
        )

    def elements(self) -> Iterator[None]:
        """One step for each element of an array, each of which the caller has to take or skip."""
        return (None for _ in self._parts("[", "]"))

    def members(self) -> Iterator[str]:
        """The names of the members of an object; the caller has to take or skip their values."""
        for _ in self._parts("{", "}"):
            if self._peek() != '"':
                raise self._malformed("a name")
            name = self.value()
            self._take(":")
            yield name

    def value(self) -> Any:
        """The value under the cursor."""
        self._peek()
        while True:
            try:
                value, end = self._decode(self._text, self._at)
            except (ValueError, RecursionError) as error:
                if self._ended:
                    raise self._malformed("a value") from error
            else:
                # A number at the very end of what is there may go on.
                if end < len(self._text) or self._ended:
                    self._at = end
                    return value
            self._more()

    def skip(self) -> None:
        """Pass over the value under the cursor."""
        first = self._peek()
        if first == "[":
            for _ in self.elements():
                self.skip()
        elif first == "{":
            for _ in self.members():
                self.skip()
        else:
            self.value()

    def _parts(self, opening: str, closing: str) -> Iterator[None]:
        self._take(opening)
        if self._peek() != closing:
            yield
            while self._peek() == ",":
                self._take(",")
                yield
        self._take(closing)

    def _peek(self) -> str:
        """The next character that is not blank, or nothing at the end."""
        while True:
            while self._at < len(self._text) and self._text[self._at] in " \t\r\n":
                self._at += 1
            if self._at < len(self._text):
                return self._text[self._at]
            if self._ended:
                return ""
            self._more()

    def _take(self, character: str) -> None:
        if self._peek() != character:
            raise self._malformed(repr(character))
        self._at += 1

    def _more(self) -> None:
        # At least as much again as is held, so that a long value is not decoded too many times.
        try:
            with readable(self._source.path):
                more = self._file.read(max(_CHUNK, len(self._text) - self._at))
        except UnicodeDecodeError as error:
            raise InputError(f"{self._source.path}: expected UTF-8 text") from error
        self._text = self._text[self._at :] + more
        self._at = 0
        self._ended = not more

    def _malformed(self, expected: str) -> InputError:
        got = self._text[self._at : self._at + 20]
        return self._source.error(
            f"expected JSON with {expected} here, got {got!r}"
            if got
            else f"expected JSON with {expected} here, got the end of the file"
        )
