"""Reading TOML tables into dataclasses; whatever does not fit is refused with one clear line."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterable
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

from workloads.errors import InputError
from workloads.registry import suggestion_for

T = TypeVar("T")
Table = dict[str, Any]


def read_toml(path: Path) -> Table:
    """The file's top table; `InputError` where it cannot be read or is not TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: is not TOML: {error}") from error


def refuse_unknown(table: Iterable[str], known: Iterable[str], where: str) -> None:
    """Raise `InputError` for the first key of ``table`` that is not ``known``."""
    known = list(known)
    for key in table:
        if key not in known:
            raise InputError(f"{where}: unknown key {key!r}; {suggestion_for(key, known)}")


def instance_of(cls: type[T], table: Table, where: str) -> T:
    """An instance of the dataclass ``cls`` made from ``table``, keys being field names.

    ``where`` begins every error line: the file, and the table within it. Numbers must be finite,
    and integers whole. What the class itself refuses is passed on with ``where``.
    """
    hints = get_type_hints(cls)
    known: dict[str, Field[Any]] = {field.name: field for field in fields(cls)}  # type: ignore[arg-type]
    refuse_unknown(table, known, where)
    for name, field in known.items():
        if name not in table and field.default is MISSING:
            raise InputError(f"{where}: {name!r} is missing")
    values = {key: _checked(value, hints[key], f"{where}: {key}") for key, value in table.items()}
    try:
        return cls(**values)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def subtable(table: Table, key: str, where: str) -> Table:
    """The table at ``key``, empty where there is none; `InputError` if it is something else."""
    value = table.get(key, {})
    if not isinstance(value, dict):
        raise InputError(f"{where}: {key!r} must be a table, not {value!r}")
    return value


def _checked(value: Any, hint: Any, where: str) -> Any:
    wanted = next(kind for kind in get_args(hint) or (hint,) if kind is not type(None))
    if wanted is float and type(value) is int:
        value = float(value)
    if type(value) is not wanted:
        raise InputError(f"{where} must be of type {wanted.__name__}, not {value!r}")
    if wanted is float and not math.isfinite(value):
        raise InputError(f"{where} must be a finite number, not {value!r}")
    return value
