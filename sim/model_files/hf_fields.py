"""The fields of a Hugging Face ``config.json``, read with care."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sim.checks import require_between
from sim.layers import MAX_LAYERS
from workloads.errors import InputError


class Fields:
    """The fields of one config; what is missing or of the wrong type is an `InputError`.

    ``where`` (the file) begins every error line. A field with the value null counts as missing,
    as it does for the classes that these files are written by.
    """

    def __init__(self, table: dict[str, Any], where: str) -> None:
        self.table = {name: value for name, value in table.items() if value is not None}
        self.where = where

    def __contains__(self, name: str) -> bool:
        return name in self.table

    def __iter__(self) -> Iterator[str]:
        return iter(self.table)

    def integer(self, name: str, default: int | None = None) -> int:
        """A whole number of at least 0, ``default`` (if there is one) where it is missing."""
        value = self.table.get(name, default)
        if value is None:
            raise InputError(f"{self.where}: field {name!r} is missing")
        if type(value) is not int or value < 0:
            raise InputError(
                f"{self.where}: field {name!r} must be a whole number of at least 0, not {value!r}"
            )
        return value

    def layers(self) -> int:
        """Number of layers; refused where it is absurd."""
        layers = self.integer("num_hidden_layers")
        require_between(f"{self.where}: field 'num_hidden_layers'", layers, 1, MAX_LAYERS)
        return layers

    def flag(self, name: str, default: bool) -> bool:
        """True or false, ``default`` where it is missing."""
        value = self.table.get(name, default)
        if type(value) is not bool:
            raise InputError(f"{self.where}: field {name!r} must be true or false, not {value!r}")
        return value

    def integers(self, name: str, default: list[int]) -> list[int]:
        """A list of whole numbers, ``default`` where it is missing."""
        return [self._element(name, value, int) for value in self._list(name, default)]

    def words(self, name: str) -> list[str]:
        """A list of names."""
        if name not in self.table:
            raise InputError(f"{self.where}: field {name!r} is missing")
        return [self._element(name, value, str) for value in self._list(name, [])]

    def inner(self, name: str) -> Fields:
        """The fields of the table at ``name``."""
        value = self.table.get(name)
        if not isinstance(value, dict):
            raise InputError(f"{self.where}: field {name!r} must be a table of fields")
        return Fields(value, f"{self.where}: {name}")

    def _list(self, name: str, default: list[Any]) -> list[Any]:
        value = self.table.get(name, default)
        if not isinstance(value, list):
            raise InputError(f"{self.where}: field {name!r} must be a list, not {value!r}")
        return value

    def _element(self, name: str, value: Any, kind: type[Any]) -> Any:
        if type(value) is not kind:
            raise InputError(
                f"{self.where}: field {name!r} must hold only {kind.__name__}, not {value!r}"
            )
        return value


def read_fields(path: Path) -> Fields:
    """The fields of the file at ``path``, or of the ``config.json`` in that folder."""
    file = path / "config.json" if path.is_dir() else path
    try:
        table = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"{file}: is not JSON: {error}") from error
    if not isinstance(table, dict):
        raise InputError(f"{file}: must hold one JSON object")
    return Fields(table, str(file))
