"""Options of plug-ins on the command line."""

from __future__ import annotations

from workloads.errors import InputError


def pairs(items: list[str], option: str) -> dict[str, str]:
    """``KEY=VALUE`` items of a repeated ``option`` as a dictionary; raises `InputError`."""
    found = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not (key and equals):
            raise InputError(f"{option} {item}: expected KEY=VALUE")
        found[key] = value
    return found
