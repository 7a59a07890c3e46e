"""The header of a GGUF file: its key-value pairs and the descriptions of its tensors.

The layout is that of ggml's ``docs/gguf.md``, versions 1 to 3, either byte order. The file is
mapped, not read: nothing beyond the header is touched, however large the file.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from workloads.errors import InputError

MAGIC = b"GGUF"
VERSIONS = (1, 2, 3)

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q"}
_SCALARS[12] = "d"
_STRING, _ARRAY = 8, 9
_MOST_DIMENSIONS = 8

TENSOR_TYPES: dict[int, tuple[int, int]] = {
    0: (1, 4),
    1: (1, 2),
    2: (32, 18),
    3: (32, 20),
    6: (32, 22),
    7: (32, 24),
    8: (32, 34),
    9: (32, 36),
    10: (256, 84),
    11: (256, 110),
    12: (256, 144),
    13: (256, 176),
    14: (256, 210),
    15: (256, 292),
    16: (256, 66),
    17: (256, 74),
    18: (256, 98),
    19: (256, 50),
    20: (32, 18),
    21: (256, 110),
    22: (256, 82),
    23: (256, 136),
    24: (1, 1),
    25: (1, 2),
    26: (1, 4),
    27: (1, 8),
    28: (1, 8),
    29: (256, 56),
    30: (1, 2),
    34: (256, 54),
    35: (256, 66),
    39: (32, 17),
    40: (64, 36),
    41: (128, 18),
}
"""Elements and bytes of a block of every ``ggml_type``, by its number (``ggml-common.h``)."""


@dataclass(frozen=True)
class Strings:
    """An array of strings that was passed over; only its length is known."""

    length: int


@dataclass(frozen=True)
class TensorInfo:
    """What the header says of one tensor. kind: number of its ``ggml_type``."""

    shape: tuple[int, ...]
    kind: int

    @property
    def elements(self) -> int:
        """How many."""
        return prod(self.shape)

    @property
    def bytes(self) -> int | None:
        """Bytes of its data; None for a type that is not known."""
        if self.kind not in TENSOR_TYPES:
            return None
        block_elements, block_bytes = TENSOR_TYPES[self.kind]
        return -(-self.elements // block_elements) * block_bytes


@dataclass(frozen=True)
class GGUFHeader:
    """values: metadata by key; arrays of strings are `Strings`. tensors: by name."""

    values: Mapping[str, Any]
    tensors: Mapping[str, TensorInfo]


def is_gguf(path: Path) -> bool:
    """Whether the file at ``path`` begins as a GGUF file does."""
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def read_header(path: Path) -> GGUFHeader:
    """The header of the GGUF file at ``path``.

    Raises `InputError` for a file that cannot be read, is cut off or is no GGUF file.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _header(data, str(path))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: is not a GGUF file: it is empty") from error


def _header(data: mmap.mmap, where: str) -> GGUFHeader:
    if data[: len(MAGIC)] != MAGIC:
        raise InputError(f"{where}: is not a GGUF file: it does not begin with {MAGIC.decode()}")
    cursor = _Cursor(data, where)
    version = cursor.scalar("I")
    if version not in VERSIONS:
        cursor.order, cursor.at = ">", len(MAGIC)
        version = cursor.scalar("I")
    if version not in VERSIONS:
        raise InputError(f"{where}: GGUF version {version} is not known, expected 1, 2 or 3")
    cursor.size = "I" if version == 1 else "Q"
    n_tensors, n_values = cursor.length(), cursor.length()
    values = {cursor.text(): cursor.value() for _ in range(n_values)}
    return GGUFHeader(values, dict(_tensors(cursor, n_tensors)))


def _tensors(cursor: _Cursor, n: int) -> Iterator[tuple[str, TensorInfo]]:
    for _ in range(n):
        name, dimensions = cursor.text(), cursor.scalar("I")
        if dimensions > _MOST_DIMENSIONS:
            raise InputError(f"{cursor.where}: tensor {name!r} has {dimensions} dimensions")
        shape = tuple(cursor.length() for _ in range(dimensions))
        kind = cursor.scalar("I")
        cursor.scalar("Q")
        yield name, TensorInfo(shape, kind)


class _Cursor:
    """Reads one item after the other. order: byte order. size: format of a length."""

    def __init__(self, data: mmap.mmap, where: str) -> None:
        self.where = where
        self.order = "<"
        self.size = "Q"
        self.at = len(MAGIC)
        self._data = data

    def scalar(self, kind: str) -> Any:
        """One number of a `struct` format."""
        return self._numbers(kind, 1)[0]

    def length(self) -> int:
        """A number of things, or of elements along a dimension."""
        return int(self.scalar(self.size))

    def text(self) -> str:
        """A string."""
        start = self._skip(self.length())
        return self._data[start : self.at].decode("utf-8", "replace")

    def value(self) -> Any:
        """A value behind its type."""
        kind = self.scalar("I")
        if kind == _STRING:
            return self.text()
        if kind == _ARRAY:
            return self._array(self.scalar("I"), self.length())
        return self.scalar(self._format(kind))

    def _array(self, kind: int, n: int) -> Any:
        if kind == _STRING:
            self._skip_texts(n)
            return Strings(n)
        if kind == _ARRAY:
            return [self._array(self.scalar("I"), self.length()) for _ in range(n)]
        return list(self._numbers(self._format(kind), n))

    def _skip_texts(self, n: int) -> None:
        """Vocabularies have hundreds of thousands of strings, so this is a tight loop."""
        size_of, data, at = struct.Struct(self.order + self.size), self._data, self.at
        try:
            for _ in range(n):
                at += size_of.size + size_of.unpack_from(data, at)[0]
        except struct.error:
            at = len(data) + 1
        self._skip(at - self.at)

    def _format(self, kind: int) -> str:
        if kind not in _SCALARS:
            raise InputError(f"{self.where}: value of the unknown type {kind} at byte {self.at}")
        return _SCALARS[kind]

    def _numbers(self, kind: str, n: int) -> tuple[Any, ...]:
        start = self._skip(n * struct.calcsize(self.order + kind))
        return struct.unpack_from(f"{self.order}{n}{kind}", self._data, start)

    def _skip(self, n_bytes: int) -> int:
        """Pass over so many bytes; where they begin."""
        start, self.at = self.at, self.at + n_bytes
        if self.at > len(self._data):
            raise InputError(f"{self.where}: is cut off at byte {len(self._data)} of its header")
        return start
