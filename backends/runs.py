"""Cells as runs: neighbours that move together."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def runs_of(src: NDArray[np.int64], dst: NDArray[np.int64]) -> NDArray[np.int32]:
    """Rows (first of ``src``, first of ``dst``, cells) of pairs that follow one another in both."""
    if not len(src):
        return np.zeros((0, 3), dtype=np.int32)
    breaks = np.flatnonzero((np.diff(src) != 1) | (np.diff(dst) != 1)) + 1
    starts = np.concatenate([[0], breaks])
    lengths = np.diff(np.append(starts, len(src)))
    return np.stack([src[starts], dst[starts], lengths], axis=1).astype(np.int32)


def overlap(src: NDArray[np.int64], dst: NDArray[np.int64]) -> bool:
    """Whether a cell is both read and written."""
    return bool(np.intersect1d(src, dst).size)
