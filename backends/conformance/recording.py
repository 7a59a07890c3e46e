"""Recorded traces on disk: finding them, reading them line by line, whatever engine made them."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from workloads.errors import InputError

Record = dict[str, Any]

_SUFFIXES = (".jsonl", ".jsonl.gz")


def find_recordings(path: Path) -> list[Path]:
    """The recording ``path`` itself, or all below the folder ``path``, sorted.

    Raises `InputError` when there is nothing.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise InputError(f"{path}: no such file or folder")
    found = sorted(p for p in path.rglob("*") if p.name.endswith(_SUFFIXES) and p.is_file())
    if not found:
        raise InputError(f"{path}: no recordings (*.jsonl, *.jsonl.gz) below this folder")
    return found


def read_records(path: Path) -> Iterator[tuple[int, Record]]:
    """(line number from 1, record) of every line; blank lines are passed over.

    Raises `InputError` naming file and line where the file is damaged.
    """
    number = 0
    opener = gzip.open if path.name.endswith(".gz") else open
    try:
        with opener(path, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if line.isspace():
                    continue
                record = json.loads(line)
                if not isinstance(record, dict):
                    raise InputError(f"{path}:{number}: expected a JSON object")
                yield number, record
    except json.JSONDecodeError as error:
        raise InputError(f"{path}:{number}: not JSON ({error.msg})") from error
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise InputError(f"{path}:{number + 1}: cannot be read ({error})") from error


def first_record(path: Path) -> Record:
    """The first record, which tells what made the file. Raises `InputError` if there is none."""
    for _, record in read_records(path):
        return record
    raise InputError(f"{path}: empty recording")
