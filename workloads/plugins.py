"""Options of plug-ins: declared once as dataclass fields, then parsed, checked and listed.

A workload, an arrival process and a length distribution are frozen dataclasses whose fields are
made by `option`. From that one declaration come the conversion of text, the check of every value
and the listing that the command line prints.
"""

from __future__ import annotations

import math
import types
from abc import ABC
from collections.abc import Mapping
from dataclasses import MISSING, Field, field, fields, is_dataclass
from importlib.util import find_spec
from typing import Any, ClassVar, Literal, Self, Union, get_args, get_origin, get_type_hints

from workloads.errors import InputError
from workloads.registry import Registry, suggestion_for

Kinds = tuple[type, ...]


def option(
    default: Any = MISSING,
    text: str = "",
    *,
    low: float | None = None,
    high: float | None = None,
) -> Any:
    """A dataclass field that users may set: its default, one line of help, its closed range."""
    return field(default=default, metadata={"text": text, "low": low, "high": high})


def name_of(plugin: Any) -> str:
    """What error lines call a plug-in (class or instance)."""
    cls = plugin if isinstance(plugin, type) else type(plugin)
    return str(getattr(cls, "name", cls.__name__))


def check_options(plugin: Any) -> None:
    """Raise `InputError` for the first field of ``plugin`` with a wrong type or out of range."""
    kinds = _kinds_of(type(plugin))
    hints = get_type_hints(type(plugin))
    for declared in fields(plugin):
        value = getattr(plugin, declared.name)
        choices = get_args(hints[declared.name]) if kinds[declared.name] == (str,) else ()
        if choices and value not in choices:
            expected = ", ".join(map(str, choices))
            raise InputError(
                f"{name_of(plugin)}: {declared.name}: expected one of {expected}, got {value!r}"
            )
        if not _can_be(value, kinds[declared.name], declared):
            raise _refusal(plugin, declared, kinds[declared.name], value)


def made(cls: Any, options: Mapping[str, Any]) -> Any:
    """``cls(**options)`` with text converted to the fields' types and ``-`` read as ``_``.

    Raises `InputError` for a class that is no plug-in, for unknown, missing or wrong options.
    """
    if not (isinstance(cls, type) and is_dataclass(cls)):
        raise InputError(f"{name_of(cls)} cannot be used: expected a dataclass")
    declared = {each.name: each for each in fields(cls) if each.init}
    kinds = _kinds_of(cls)
    values: dict[str, Any] = {}
    for key, value in options.items():
        name = key.replace("-", "_")
        if name not in declared:
            hint = suggestion_for(name, declared) if declared else "it has none"
            raise InputError(f"{name_of(cls)} has no option {key!r}; {hint}")
        if isinstance(value, str):
            value = _converted(cls, value, declared[name], kinds[name])
        values[name] = value
    for name, each in declared.items():
        if name not in values and each.default is MISSING and each.default_factory is MISSING:
            raise InputError(
                f"{name_of(cls)} needs the option {name!r}: {each.metadata.get('text', '')}"
            )
    return cls(**values)


def class_of(registry: Registry, spec: str) -> tuple[Any, str]:
    """The plug-in that ``NAME``, ``NAME:REST`` or ``package.module:Class[:REST]`` names, and REST.

    Raises `InputError` when there is no such plug-in.
    """
    name, _, rest = spec.partition(":")
    if name not in registry.names() and rest and _can_import(name):
        attribute, _, rest = rest.partition(":")
        name = f"{name}:{attribute}"
    return registry.load(name), rest


def pairs_of(text: str, owner: str) -> dict[str, str]:
    """``KEY=VALUE[,KEY=VALUE...]`` as a dictionary; ``owner`` is named in the `InputError`."""
    pairs = {}
    for piece in text.split(",") if text else []:
        key, equals, value = piece.partition("=")
        if not (key.strip() and equals):
            raise InputError(f"{owner}: expected KEY=VALUE[,KEY=VALUE...], got {piece!r}")
        pairs[key.strip()] = value.strip()
    return pairs


class Part(ABC):
    """A small plug-in written as ``NAME[:KEY=VALUE,...]``; subclasses are frozen dataclasses."""

    name: ClassVar[str]
    registry: ClassVar[Registry]

    def __post_init__(self) -> None:
        check_options(self)

    def __str__(self) -> str:
        options = ",".join(f"{each.name}={getattr(self, each.name)}" for each in fields(self))  # type: ignore[arg-type]
        return f"{self.name}:{options}" if options else self.name

    @classmethod
    def of(cls, spec: str) -> Self:
        """The part that ``spec`` describes; raises `InputError`."""
        found, rest = class_of(cls.registry, spec)
        part = made(found, pairs_of(rest, spec))
        if not isinstance(part, cls):
            raise InputError(f"{spec!r} is not a {cls.registry.kind}")
        return part


def _kinds_of(cls: type) -> dict[str, Kinds]:
    """For every annotated name the types that its value may have, unions taken apart."""
    kinds: dict[str, Kinds] = {}
    for name, hint in get_type_hints(cls).items():
        if get_origin(hint) is Literal:
            kinds[name] = (str,)
            continue
        union = get_origin(hint) in (Union, types.UnionType)
        kinds[name] = tuple(
            get_origin(each) or each for each in (get_args(hint) if union else (hint,))
        )
    return kinds


def _can_be(value: Any, kinds: Kinds, declared: Field[Any]) -> bool:
    if value is None or isinstance(value, bool):
        return type(value) in kinds
    if isinstance(value, int | float):
        if not (type(value) in kinds or (float in kinds and isinstance(value, int))):
            return False
        low, high = declared.metadata.get("low"), declared.metadata.get("high")
        return (
            math.isfinite(value)
            and (low is None or value >= low)
            and (high is None or value <= high)
        )
    return isinstance(value, kinds)


def _converted(cls: type, text: str, declared: Field[Any], kinds: Kinds) -> Any:
    if str in kinds:
        return text
    if types.NoneType in kinds and text.lower() == "none":
        return None
    for kind in kinds:
        if issubclass(kind, Part):
            return kind.of(text)
        if kind is bool and text.lower() in ("true", "false"):
            return text.lower() == "true"
        if kind in (int, float):
            try:
                return kind(text)
            except ValueError:
                continue
    raise _refusal(cls, declared, kinds, text)


def _refusal(plugin: Any, declared: Field[Any], kinds: Kinds, value: Any) -> InputError:
    if float in kinds or int in kinds:
        expected = "a finite number" if float in kinds else "a whole number"
        low, high = declared.metadata.get("low"), declared.metadata.get("high")
        expected += f" from {low:g}" if low is not None else ""
        expected += f" up to {high:g}" if high is not None else ""
    else:
        expected = " or ".join(kind.__name__ for kind in kinds if kind is not types.NoneType)
    expected += " or none" if types.NoneType in kinds else ""
    return InputError(f"{name_of(plugin)}: {declared.name}: expected {expected}, got {value!r}")


def _can_import(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):
        return False
