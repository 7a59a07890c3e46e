"""Sums over many sequences whose lengths grow by one token a step, for every step at once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sim.reads import wraps

Ints = NDArray[np.int64]


def floors(lengths: Ints, size: int, steps: int) -> Ints:
    """Sum over i of ``max(0, lengths[i] + k) // size`` for every step k, shape (steps,)."""
    whole = np.maximum(lengths, 0) // size
    return int(whole.sum()) + wraps(size * (whole + 1) - lengths, size, steps)


def entered(first: Ints, weights: Ints, steps: int) -> Ints:
    """Sum of the weights of all i with ``first[i] <= k`` for every step k, shape (steps,)."""
    at = np.clip(first, 0, steps)
    summed = np.bincount(at, weights=weights, minlength=steps + 1)[:steps]
    return np.cumsum(summed).astype(np.int64)
