"""Checks of numbers and names that users give."""

from __future__ import annotations

from workloads.errors import InputError
from workloads.registry import suggestion_for


def require_positive(**numbers: int | None) -> None:
    """Raise `InputError` for the first of the named numbers that is given and not positive."""
    for name, value in numbers.items():
        if value is not None and value < 1:
            raise InputError(f"{name} must be at least 1, not {value}")


def require_kind(field: str, kind: str, known: tuple[str, ...]) -> None:
    """Raise `InputError` unless ``kind`` is one of ``known``."""
    if kind not in known:
        raise InputError(f"unknown {field} {kind!r}; {suggestion_for(kind, known)}")


def require_between(name: str, value: int, low: int, high: int) -> None:
    """Raise `InputError` unless ``low <= value <= high``."""
    if not low <= value <= high:
        raise InputError(f"{name} must be from {low} to {high}, not {value}")
