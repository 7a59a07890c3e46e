"""Rotary position embedding: what ties a key to its position, and moves it to another.

Su et al., RoFormer (2021): the pair of elements i and i + d/2 of a head is turned by
``position * base^(-2i/d)``. Turning a cached key by ``delta`` more moves it by ``delta``
positions, which is what llama.cpp's K-shift does to rows that stay in the cache.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.arrays import Array

BASE = 10_000.0


def angles(positions: NDArray[np.int64], dim: int) -> NDArray[np.float64]:
    """Radians of every pair, shape (positions, dim / 2)."""
    return positions[:, None] * BASE ** (-2.0 * np.arange(dim // 2) / dim)


def turns_of(positions: NDArray[np.int64], dim: int) -> NDArray[np.float32]:
    """Cosines and sines of `angles`, shape (2, positions, dim / 2).

    Made on the host in double precision, so that every backend rotates by the same numbers.
    """
    turn = angles(positions, dim)
    return np.stack([np.cos(turn), np.sin(turn)]).astype(np.float32)


def rotated(xp: Any, rows: Array, turns: Array) -> Array:
    """``rows`` (n, heads, dim) turned by ``turns`` (2, n, dim / 2), in the precision of both."""
    half = rows.shape[-1] // 2
    first, second = rows[..., :half], rows[..., half:]
    cosine, sine = turns[0][:, None], turns[1][:, None]
    return xp.concatenate([first * cosine - second * sine, first * sine + second * cosine], axis=-1)
