"""The axes of a study: what varies, and the fields of a run that each label sets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kvlab.config import RunConfig
from workloads.errors import InputError
from workloads.registry import suggestion_for

Fields = dict[str, Any]

TABLES = (
    *("policy_options", "workload_options", "scheduler_options"),
    *("cluster", "tiers", "speculation", "slo"),
)
"""Fields of a run that are tables: they are merged key by key, the others replaced."""
MEMORY = ("kv_tokens", "kv_memory")
"""Two ways to say one thing: setting one takes the other back."""


@dataclass(frozen=True)
class Value:
    """One label of an axis, the fields that it sets, and its number if it is a plain one."""

    label: str
    fields: Fields
    number: float | None = None


@dataclass(frozen=True)
class Axis:
    """A name and its values, in the order of the tables."""

    name: str
    values: tuple[Value, ...]

    def __post_init__(self) -> None:
        if not self.values:
            raise InputError(f"grid.{self.name}: expected at least one value")
        labels = [value.label for value in self.values]
        for label in labels:
            if labels.count(label) > 1:
                raise InputError(f"grid.{self.name}: {label!r} comes twice")

    def sets(self, field: str) -> bool:
        """Whether any label sets a field of a run."""
        return any(field in value.fields for value in self.values)


def flattened(grid: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, list[Any]]]:
    """The lists of a table by their dotted names; raises `InputError` for what is no list."""
    for key, value in grid.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from flattened(value, f"{name}.")
        elif isinstance(value, list | tuple):
            yield name, list(value)
        else:
            raise InputError(f"grid.{name}: expected a list of values, not {value!r}")


def axis_of_policies(names: Sequence[str]) -> Axis:
    """The policies of a comparison as an axis."""
    return Axis("policy", tuple(Value(name, {"policy": name}) for name in names))


def axis_of_points(points: Sequence[Fields]) -> Axis:
    """Listed points as an axis called ``point``."""
    return Axis("point", tuple(_table("points", point) for point in points))


def axis_of_grid(name: str, values: Sequence[Any]) -> Axis:
    """An axis of the grid: plain values of the field ``name``, or tables with labels."""
    if any(not isinstance(value, Mapping) for value in values):
        _check_field(name, f"grid.{name}")
    where = f"grid.{name}"
    return Axis(
        name,
        tuple(
            _table(where, value) if isinstance(value, Mapping) else _plain(name, value)
            for value in values
        ),
    )


def _check_field(name: str, where: str) -> None:
    field, dot, _ = name.partition(".")
    known = RunConfig.model_fields.keys() - {"seed"}
    if field == "seed":
        raise InputError(f"{where}: the seeds of a study are its field 'seeds'")
    if field not in known:
        raise InputError(f"{where}: {field!r} is no field of a run; {suggestion_for(field, known)}")
    if bool(dot) != (field in TABLES):
        expected = f"{field}.KEY" if field in TABLES else field
        raise InputError(f"{where}: expected {expected}")


def _plain(name: str, value: Any) -> Value:
    fields: Any = value
    for key in reversed(name.split(".")):
        fields = {key: fields}
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return Value(_text(value), fields, float(value) if is_number else None)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _table(where: str, table: Mapping[str, Any]) -> Value:
    label = table.get("label")
    if not isinstance(label, str) or not label:
        raise InputError(f"{where}: every table needs a label, as in {{label = 'large', ...}}")
    fields = {key: value for key, value in table.items() if key != "label"}
    for field in fields:
        if field not in TABLES:
            _check_field(field, f"{where}: {label}")
        elif not isinstance(fields[field], Mapping):
            raise InputError(f"{where}: {label}: {field}: expected a table")
    return Value(label, fields)


def merged(fields: Fields, more: Fields) -> Fields:
    """``fields`` with ``more`` over them."""
    result = dict(fields)
    for name in MEMORY:
        if name in more:
            result = {key: value for key, value in result.items() if key not in MEMORY}
    for key, value in more.items():
        result[key] = {**result.get(key, {}), **value} if key in TABLES else value
    return result
