"""The options of a policy that has none."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class NoOptions:
    """What there is to choose where nothing is."""
