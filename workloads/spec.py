"""Workloads by name: from what the user wrote to a `Workload`, and what there is to write."""

from __future__ import annotations

import inspect
import os
from dataclasses import MISSING, Field, dataclass, fields
from typing import Any

from workloads.errors import InputError
from workloads.plugins import class_of, made, name_of, pairs_of
from workloads.registry import Registry, suggestion_for
from workloads.request import Workload
from workloads.traces.head import Head
from workloads.traces.lines import shortened

WORKLOADS = Registry("workload", "kvlab.workloads")


@dataclass(frozen=True)
class OptionLine:
    """One option of a workload: its name, its default as text, one line of help."""

    name: str
    default: str
    text: str


@dataclass(frozen=True)
class Description:
    """What a listing says of a workload; ``usage`` is what to write on the command line."""

    name: str
    usage: str
    summary: str
    options: tuple[OptionLine, ...]


def workload_of(
    spec: str,
    *,
    requests: int | None = None,
    rate: float | None = None,
    seed: int | None = None,
    **options: Any,
) -> Workload:
    """The workload that ``spec`` names, with its options set.

    spec: ``NAME[:KEY=VALUE,...]`` for a generator, ``NAME:PATH`` for a trace; instead of a
    registered name also ``package.module:Class``. A path alone is read by the one reader that
    knows its format.
    requests: how many requests at most; None: the workload's own number, or the whole trace.
    rate: mean requests a second. A trace is stretched to it, which costs one more reading.
    seed: of a generator; a trace has no use for one and ignores it.
    options: any others of the workload; text is converted.

    Raises `InputError` for unknown names and options (with the closest known one), for values
    of the wrong type or out of range, and for a path that no reader or more than one knows.
    """
    if spec.partition(":")[0] not in WORKLOADS.names() and os.path.exists(spec):
        cls, rest = reader_of(spec), spec
    elif ":" in spec or spec in WORKLOADS.names():
        cls, rest = class_of(WORKLOADS, spec)
    else:
        raise InputError(
            f"unknown workload {spec!r}: there is no such file and no such name; "
            f"{suggestion_for(spec, WORKLOADS.names())}"
        )
    known = _option_names(cls)
    given = dict(options)
    if "path" in known:
        if not rest:
            raise InputError(f"workload {spec!r} reads a file: expected {spec.rstrip(':')}:PATH")
        given["path"] = rest
    else:
        given = pairs_of(rest, f"workload {spec!r}") | given
    if seed is not None and "seed" in known:
        given["seed"] = seed
    given |= {k: v for k, v in (("requests", requests), ("rate", rate)) if v is not None}
    workload = made(cls, given)
    if not isinstance(workload, Workload):
        raise InputError(f"{spec!r} is not a workload: expected a subclass of Workload")
    return workload


def reader_of(path: str) -> Any:
    """The class of the reader that recognises the content of ``path``.

    Raises `InputError` when none does, or several do.
    """
    head = Head.of(path)
    asked, found = [], {}
    for name in WORKLOADS.names():
        cls = WORKLOADS.load(name)
        sniff = getattr(cls, "sniff", None)
        if sniff is None:
            continue
        asked.append(name)
        if (cls.takes_directories or not head.names) and sniff(head):
            found[name] = cls
    if len(found) == 1:
        return next(iter(found.values()))
    which = f"could be of {', '.join(found)}" if found else f"is of none of {', '.join(asked)}"
    beginning = f" {shortened(head.first_line)}" if head.first_line else ""
    raise InputError(f"{path}: {which}, by its beginning{beginning}; expected READER:PATH")


def describe(name: str, registry: Registry = WORKLOADS) -> Description:
    """What a listing says of the workload (or part of one) called ``name``, from its class alone.

    Raises `InputError` when there is none.
    """
    cls = registry.load(name)
    lines = tuple(
        OptionLine(each.name, _default_of(each), each.metadata.get("text", ""))
        for each in fields(cls)
        if each.name != "path"
    )
    usage = f"{name}:PATH" if "path" in _option_names(cls) else name
    return Description(name, usage, (inspect.getdoc(cls) or "").partition("\n")[0], lines)


def descriptions(registry: Registry = WORKLOADS) -> list[Description]:
    """All registered workloads (or parts of one kind), sorted by name."""
    return [describe(name, registry) for name in registry.names()]


def _default_of(declared: Field[Any]) -> str:
    if declared.default is MISSING:
        return "required"
    return "none" if declared.default is None else str(declared.default)


def _option_names(cls: Any) -> set[str]:
    try:
        return {each.name for each in fields(cls)}
    except TypeError:
        raise InputError(f"{name_of(cls)} cannot be used: expected a dataclass") from None
