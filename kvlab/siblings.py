"""kvlab's packages have common names; this notices when another project's stand in their place."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

PACKAGES = ("workloads", "sim", "backends", "reports")


def shadowed() -> str | None:
    """One line that says which path shadows which package of kvlab's, or None if none does."""
    home = Path(__file__).resolve().parent.parent
    for name in PACKAGES:
        spec = find_spec(name)
        found = Path(spec.origin).resolve().parent if spec and spec.origin else None
        if found != home / name:
            there = found or "nothing"
            return f"kvlab needs its package {name!r} at {home / name}, but Python finds {there}"
    return None
