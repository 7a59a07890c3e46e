"""A difference between what an engine did and what we did, as text for people."""

from __future__ import annotations

import json
from itertools import zip_longest
from typing import Any

_WIDTH = 44
_CONTEXT = 6


def describe(where: str, asked: str, what: str, engine: Any, ours: Any) -> str:
    """A few lines: where, what was asked, and both answers, side by side if they are cell maps.

    ``what`` names the compared thing; the part of it that differs first is named as well.
    """
    name, engine, ours = narrowed(what, engine, ours)
    head = f"{where}\n  asked:  {asked}\n  differs in {name}\n"
    left, right = _lines(engine), _lines(ours)
    if len(left) == 1 and len(right) == 1 and max(len(left[0]), len(right[0])) > _WIDTH:
        return f"{head}  engine: {left[0]}\n  kvlab:  {right[0]}"
    return head + _side_by_side(left, right)


def narrowed(what: str, engine: Any, ours: Any) -> tuple[str, Any, Any]:
    """The first differing part of two structures, and its name; cell maps stay whole."""
    if isinstance(engine, dict) and isinstance(ours, dict) and "runs" not in engine:
        for key in [*engine, *(key for key in ours if key not in engine)]:
            if engine.get(key) != ours.get(key):
                return narrowed(f"{what}.{key}", engine.get(key), ours.get(key))
    elif isinstance(engine, list) and isinstance(ours, list) and not _is_runs(engine + ours):
        for i, (a, b) in enumerate(zip_longest(engine, ours)):
            if a != b:
                return narrowed(f"{what}[{i}]", a, b)
    return what, engine, ours


def _is_runs(value: list[Any]) -> bool:
    """Whether these are runs of cells, or pairs of positions: a map is read as a whole."""
    return bool(value) and all(isinstance(v, list) and _is_run(v) for v in value)


def _is_run(value: list[Any]) -> bool:
    """[cell, owner, position, n], [[owners], position, n] or [position, anything]."""
    if len(value) == 4:
        return isinstance(value[1], str)
    if len(value) == 3:
        return isinstance(value[0], list) and isinstance(value[1], int)
    return len(value) == 2 and isinstance(value[0], int)


def _lines(value: Any) -> list[str]:
    if isinstance(value, dict) and "runs" in value:
        rest = {key: v for key, v in value.items() if key != "runs"}
        return [" ".join(f"{key}={v}" for key, v in rest.items()), *_lines(value["runs"])]
    if isinstance(value, list) and _is_runs(value):
        return [_run(run) for run in value]
    return [json.dumps(value)]


def _run(run: list[Any]) -> str:
    if len(run) == 4:
        cell, owner, pos, n = run
        return f"cells {cell}-{cell + n - 1}: seq {owner}, pos {pos}-{pos + n - 1}"
    if len(run) == 3 and isinstance(run[0], list):
        owners, pos, n = run
        return f"seqs {owners}, pos {pos}-{pos + n - 1}"
    return json.dumps(run)


def _side_by_side(left: list[str], right: list[str]) -> str:
    rows = list(zip_longest(left, right, fillvalue=""))
    first = next((i for i, (a, b) in enumerate(rows) if a != b), 0)
    begin, end = max(0, first - _CONTEXT), first + _CONTEXT + 1
    shown = [("engine", "kvlab"), *rows[begin:end]]
    lines = [
        f"  {'*' if a != b and i else ' '} {a:<{_WIDTH}} | {b}" for i, (a, b) in enumerate(shown)
    ]
    if begin:
        lines.insert(1, f"    ({begin} lines alike)")
    if end < len(rows):
        lines.append(f"    ({len(rows) - end} more lines)")
    return "\n".join(lines)
