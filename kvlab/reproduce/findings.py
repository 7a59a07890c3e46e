"""What a reproduction found: numbers beside the published ones, claims, and what is left open."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Published = float | tuple[float, float] | None
"""A published number, a published range, or None where kvlab's number has no counterpart."""


@dataclass(frozen=True)
class Number:
    """One figure. ``within``: the largest difference that meets the target; None: no target.

    digits: decimals that are shown.
    """

    what: str
    paper: Published
    kvlab: float
    unit: str = ""
    within: float | None = None
    digits: int = 1

    @property
    def difference(self) -> float | None:
        """kvlab's less the published one; 0 within a published range; None without one."""
        if self.paper is None:
            return None
        low, high = self.paper if isinstance(self.paper, tuple) else (self.paper, self.paper)
        return self.kvlab - min(max(self.kvlab, low), high)

    @property
    def meets(self) -> bool:
        """Whether the difference is no larger than the target allows."""
        if self.within is None or self.difference is None:
            return True
        # Decimal fractions have no exact binary form, so a border itself needs room.
        return abs(self.difference) <= self.within * (1 + 1e-9) + 1e-12


@dataclass(frozen=True)
class Claim:
    """Something the publication says in words. seen: what kvlab measured instead of them."""

    what: str
    seen: str
    meets: bool


@dataclass(frozen=True)
class Sweep:
    """An assumption that the publication does not state, and what other choices would give."""

    assumption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Reproduction:
    """All that was found. curves: plain data for the picture and for ``--json``."""

    numbers: tuple[Number, ...] = ()
    claims: tuple[Claim, ...] = ()
    leaves_open: tuple[str, ...] = ()
    sweeps: tuple[Sweep, ...] = ()
    notes: tuple[str, ...] = ()
    curves: Mapping[str, Any] = field(default_factory=dict)

    @property
    def missed(self) -> tuple[str, ...]:
        """What does not meet its target."""
        found: tuple[Number | Claim, ...] = (*self.numbers, *self.claims)
        return tuple(each.what for each in found if not each.meets)
