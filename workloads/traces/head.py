"""The beginning of a file, as far as readers need it to say whether the format is theirs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from json import JSONDecoder
from pathlib import Path

from workloads.traces.columns import cells_of
from workloads.traces.files import opened, readable

_BYTES = 1 << 16
_BLANKS = re.compile(r"[ \t\r\n]*")


@dataclass(frozen=True)
class Head:
    """What a file begins with.

    names: what is in a directory, sorted; ``text`` is then of its first ``.json`` file, if any.
    """

    text: str
    names: tuple[str, ...] = ()

    @classmethod
    def of(cls, path: str) -> Head:
        """The head of the file or directory at ``path``; raises `InputError`."""
        with readable(path):
            if Path(path).is_dir():
                names = tuple(sorted(each.name for each in Path(path).iterdir()))
                first = next((name for name in names if name.endswith(".json")), None)
                return cls(_beginning(Path(path) / first) if first else "", names)
            return cls(_beginning(Path(path)))

    @cached_property
    def columns(self) -> frozenset[str]:
        """The fields of the first line, taken as the header of a CSV file."""
        return frozenset(cells_of(self.first_line))

    @property
    def first_line(self) -> str:
        """The first line without blanks around it."""
        return self.text.partition("\n")[0].strip()

    @cached_property
    def is_array(self) -> bool:
        """Whether the file is a JSON array."""
        return self.text.lstrip().startswith("[")

    @cached_property
    def keys(self) -> frozenset[str]:
        """The names of the first JSON object's members, as far as the head reaches.

        The object is a document, the first line, or the first element of an array.
        """
        start = 0
        for opening in "[{" if self.is_array else "{":
            start = _blank_end(self.text, start)
            if not self.text.startswith(opening, start):
                return frozenset()
            start += 1
        return frozenset(_names_in(self.text, start))


def _beginning(path: Path) -> str:
    with opened(path) as file:
        return file.read(_BYTES).decode("utf-8-sig", errors="ignore")


def _names_in(text: str, at: int) -> list[str]:
    decode = JSONDecoder().raw_decode
    names: list[str] = []
    try:
        while True:
            name, at = decode(text, _blank_end(text, at))
            names.append(str(name))
            at = _blank_end(text, at) + 1
            _, at = decode(text, _blank_end(text, at))
            at = _blank_end(text, at)
            if not text.startswith(",", at):
                return names
            at += 1
    except (ValueError, RecursionError):
        return names


def _blank_end(text: str, at: int) -> int:
    found = _BLANKS.match(text, at)
    return found.end() if found else at
