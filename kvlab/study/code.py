"""Which code results follow from, so that a sweep never takes those of other code for its own."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import cache, lru_cache
from importlib.metadata import distributions
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import kvlab

PACKAGES = ("workloads", "sim", "backends", "kvlab")
"""All that a run may go through; `reports` only shows what came out."""
DATA = "sim"
"""The package whose tables (models, hardware) are read besides code."""


@cache
def code_digest() -> str:
    """A digest of the code of kvlab, and of the models and the hardware that it knows."""
    return digest_of_tree(Path(kvlab.__file__).resolve().parent.parent)


def digest_of_tree(root: Path) -> str:
    """The same of the packages below ``root``."""
    found = [path for name in PACKAGES for path in (root / name).rglob("*.py")]
    found += (root / DATA).rglob("*.toml")
    known = hashlib.sha256()
    for path in sorted(found):
        known.update(f"{path.relative_to(root)}\0{digest_of_file(path)}\n".encode())
    return known.hexdigest()


def modules_of(value: Any) -> dict[str, str]:
    """Digests of the modules of others' plug-ins that a configuration names, by module.

    Looked at is the module of the class itself, not what it imports.
    """
    found: dict[str, str] = {}
    for text in _texts_in(value):
        target = _of_others().get(text.partition(":")[0], text)
        module, _, attribute = target.partition(":")
        if attribute.isidentifier() and module.partition(".")[0] not in PACKAGES:
            origin = _origin_of(module)
            if origin is not None:
                found[module] = digest_of_file(origin)
    return found


def digest_of_file(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal; read again only where it has changed."""
    return _digest_of_file(str(path), path.stat().st_mtime_ns)


@lru_cache(maxsize=4096)
def _digest_of_file(name: str, changed: int) -> str:
    with Path(name).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@cache
def _of_others() -> dict[str, str]:
    """Plug-ins that other distributions have registered: ``module:Class`` by name."""
    return {
        entry.name: entry.value
        for distribution in distributions()
        for entry in distribution.entry_points
        if entry.group.startswith("kvlab.") and entry.module.partition(".")[0] not in PACKAGES
    }


def _texts_in(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list | tuple):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _texts_in(part)


def _origin_of(module: str) -> Path | None:
    try:
        spec = find_spec(module)
    except (ImportError, ValueError):
        return None
    is_file = spec is not None and spec.origin is not None and Path(spec.origin).is_file()
    return Path(str(spec.origin)) if spec is not None and is_file else None
