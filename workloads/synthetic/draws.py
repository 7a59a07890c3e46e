"""Endless streams of drawn numbers, drawn in batches and handed out one by one."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from workloads.lengths import Lengths

BATCH = 1024
"""Numbers drawn at once: enough to forget numpy's cost a call, few enough for small runs."""


def tokens(lengths: Lengths, rng: np.random.Generator) -> Iterator[int]:
    """Lengths in tokens."""
    while True:
        yield from lengths.draw(rng, BATCH).tolist()


def seconds(mean: float, rng: np.random.Generator) -> Iterator[float]:
    """Exponential times with this mean (seconds)."""
    while True:
        yield from rng.exponential(mean, BATCH).tolist()


def shares(rng: np.random.Generator) -> Iterator[float]:
    """Numbers from 0 to below 1, all equally likely."""
    while True:
        yield from rng.random(BATCH).tolist()


def counts(mean: float, rng: np.random.Generator) -> Iterator[int]:
    """Geometric numbers from 1 on with this mean (at least 1)."""
    while True:
        yield from rng.geometric(1 / mean, BATCH).tolist()


def popular(items: int, exponent: float, rng: np.random.Generator) -> Iterator[int]:
    """Items from 0 to below ``items``, the k-th with a weight of 1 / (k + 1) ** exponent (Zipf)."""
    cumulated = np.cumsum(np.arange(1, items + 1, dtype=np.float64) ** -exponent)
    cumulated /= cumulated[-1]
    while True:
        yield from np.searchsorted(cumulated, rng.random(BATCH), side="right").tolist()
