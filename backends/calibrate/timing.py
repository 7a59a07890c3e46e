"""How a point is timed: warmed up, repeated, on inputs that change from call to call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle

import numpy as np

from backends.arrays import Backend

Work = Callable[[], object]


@dataclass(frozen=True)
class Effort:
    """repeats: timed calls at most. warmup: calls before them. seconds: for one point, about."""

    repeats: int = 50
    warmup: int = 5
    seconds: float = 1.0


QUICK = Effort(repeats=7, warmup=1, seconds=0.12)
FEWEST = 3
"""Timed calls of a point that takes longer than the effort allows."""


def timed(
    backend: Backend, variants: Sequence[Work], effort: Effort
) -> tuple[float, float, float, int]:
    """(median, 10th, 90th percentile in seconds, calls) of ``variants``, taken in turn.

    ``variants`` do the same to other memory, so that no cache holds what the next one reads.
    """
    turns = cycle(variants)
    for _ in range(effort.warmup):
        next(turns)()
    backend.synchronize()
    times: list[float] = []
    while len(times) < effort.repeats:
        times.append(backend.seconds(next(turns)))
        if len(times) >= FEWEST and sum(times) > effort.seconds:
            break
    low, median, high = np.percentile(times, [10, 50, 90]).tolist()
    return median, low, high, len(times)
