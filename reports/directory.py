"""Directories and files of results that are either complete or not there."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from workloads.errors import InputError

IsOurs = Callable[[Path], bool]
"""Whether everything in an existing, non-empty directory was written by kvlab."""


def ensure_replaceable(directory: str | Path, is_ours: IsOurs) -> None:
    """Raise `InputError` where `replacing` would have to refuse; changes nothing.

    For asking before a long run rather than after it. Refused are files, directories with
    anything in them that kvlab did not write, and places where nothing can be written.
    """
    target = Path(directory).resolve()
    if target.exists():
        if not target.is_dir():
            raise InputError(f"{directory}: not a directory")
        if any(target.iterdir()) and not is_ours(target):
            raise InputError(
                f"{directory}: holds files that kvlab did not write there; "
                "expected a new or empty directory, or results of an earlier run"
            )
    parent = next(path for path in target.parents if path.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise InputError(f"{directory}: cannot be written: {parent} is not a writable directory")


@contextmanager
def replacing(directory: str | Path, is_ours: IsOurs) -> Iterator[Path]:
    """A new directory to fill, which takes the place of ``directory`` when the block ends well.

    When the block ends badly (Ctrl-C included) nothing is left of it and what ``directory`` held
    stays. The new directory grows beside the old one, so that both moves are renames within one
    file system. Raises `InputError` as `ensure_replaceable` does, and for any `OSError`.
    """
    ensure_replaceable(directory, is_ours)
    target = Path(directory).resolve()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".kvlab-", dir=target.parent) as scratch:
            new, old = Path(scratch) / "new", Path(scratch) / "old"
            new.mkdir()
            yield new
            _exchange(new, target, old)
    except OSError as error:
        raise InputError(f"{directory}: cannot be written: {error.strerror or error}") from error


@contextmanager
def whole_file(path: str | Path) -> Iterator[TextIO]:
    """A text file to fill, which takes the place of ``path`` when the block ends well.

    Folders that are missing are made. Raises `InputError` for any `OSError`.
    """
    target = Path(path).resolve()
    partial = target.with_name(f".kvlab-{target.name}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("w", encoding="utf-8") as file:
            yield file
        partial.replace(target)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        if partial.exists():
            partial.unlink()


def _exchange(new: Path, target: Path, old: Path) -> None:
    if not target.exists():
        new.rename(target)
        return
    target.rename(old)
    try:
        new.rename(target)
    except BaseException:
        old.rename(target)
        raise
