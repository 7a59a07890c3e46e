"""Simulated time: seconds in steps of one tick, so that sums of times are exact.

A tick is 2**-30 s, a little less than a nanosecond. Multiples of a tick are exact in double
precision up to 97 days, and so are their sums in whatever order they are added. That is why a run
of many decode steps taken at once ends at the same bit as the same steps taken one by one.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

TICKS_PER_SECOND: Final = 1 << 30
FOREVER: Final = 1 << 62
"""More ticks than any run lasts."""


def to_ticks(seconds: float) -> int:
    """The nearest whole number of ticks of a time that is not negative; the next one of two."""
    exact = seconds * TICKS_PER_SECOND
    ticks = int(exact)
    return ticks + 1 if exact - ticks >= 0.5 else ticks


def ticks_of(seconds: NDArray[np.float64]) -> NDArray[np.int64]:
    """The nearest whole numbers of ticks; rounds as `to_ticks` does."""
    exact = seconds * TICKS_PER_SECOND
    ticks = exact.astype(np.int64)
    return ticks + (exact - ticks >= 0.5)


def to_seconds(ticks: int) -> float:
    """Seconds of a number of ticks, exactly."""
    return ticks / TICKS_PER_SECOND


def on_tick(seconds: float) -> float:
    """``seconds`` rounded to a whole tick."""
    return to_seconds(to_ticks(seconds))
