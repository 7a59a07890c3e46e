"""Opening what users give: plain text, or the same packed by gzip."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from workloads.errors import InputError

_GZIP = b"\x1f\x8b"


def opened(path: str | Path) -> IO[bytes]:
    """The bytes of the file, unpacked where its first two say that it is packed; `OSError`."""
    with open(path, "rb") as file:
        packed = file.read(2) == _GZIP
    return gzip.open(path, "rb") if packed else open(path, "rb")  # type: ignore[return-value]


def text_of(path: str | Path) -> IO[str]:
    """The text of the file, UTF-8 with or without a mark at its beginning; raises `OSError`."""
    return io.TextIOWrapper(opened(path), encoding="utf-8-sig")


@contextmanager
def readable(path: str | Path) -> Iterator[None]:
    """Raises `InputError` for a file that cannot be read, or not be unpacked, within."""
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{path}: cannot be unpacked: {error}") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
