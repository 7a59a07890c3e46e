"""Plug-ins by name: built-in ones and a user's own are found through the same entry points."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from workloads.errors import InputError


def suggestion_for(name: str, known: Iterable[str]) -> str:
    """The tail of an error line: the closest known name if there is one, else all of them."""
    choices = sorted(known)
    close = difflib.get_close_matches(name, choices, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(choices)}"


class Registry:
    """The plug-ins of one entry-point group, imported only when asked for.

    ``kind`` is the word that error messages use (``policy``, ``workload``); ``group`` is the
    entry-point group (``kvlab.policies``). ``always``: names (to ``package.module:attribute``)
    that have to be found where the package is on the path and not installed, too.
    """

    def __init__(self, kind: str, group: str, always: Mapping[str, str] | None = None) -> None:
        self.kind = kind
        self.group = group
        self._always = always or {}
        self._found: dict[str, EntryPoint] | None = None

    def _entries(self) -> dict[str, EntryPoint]:
        if self._found is None:
            self._found = {entry.name: entry for entry in entry_points(group=self.group)}
        return self._found

    def names(self) -> list[str]:
        """All registered names, sorted."""
        return sorted(self._entries())

    def target_of(self, name: str) -> str:
        """The ``package.module:attribute`` that a registered name stands for."""
        return self._entries()[name].value

    def load(self, name: str) -> Any:
        """The plug-in called ``name``, or the object at ``package.module:attribute``.

        Raises `InputError` when there is no such name, or the object cannot be imported.
        """
        if ":" in name:
            return self._import(name)
        entry = self._entries().get(name)
        if entry is None and name in self._always:
            return self._import(self._always[name])
        if entry is None:
            raise InputError(f"unknown {self.kind} {name!r}; {suggestion_for(name, self.names())}")
        return entry.load()

    def _import(self, target: str) -> Any:
        module_name, _, attribute = target.partition(":")
        try:
            return getattr(importlib.import_module(module_name), attribute)
        except (ImportError, AttributeError) as error:
            raise InputError(f"{self.kind} {target!r} cannot be imported: {error}") from error
