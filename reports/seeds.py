"""What several seeds support: medians with intervals, and differences that are called ones.

The interval goes from the k-th smallest to the k-th largest value, with the largest k at which it
still covers the true median with a probability of 95 %, whatever the distribution; with fewer than
six seeds no k does, and it is the whole range. Two points that were run with the same seeds are
compared seed by seed: signs of the differences are flipped in all ways, and the mean difference
counts if at most 5 % of these are as far from zero (Fisher's exact sign-flip test).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95
RESAMPLES = 65536
"""Ways of flipping signs that are tried at most: all of them up to 16 seeds."""

INTERVAL = (
    "Medians over the seeds; in brackets from the k-th smallest to the k-th largest value, which "
    "covers the true median with at least 95 % (the whole range with fewer than six seeds)."
)


@dataclass(frozen=True)
class Spread:
    """The median of some values, an interval, and the probability with which that covers it."""

    median: float
    low: float
    high: float
    n: int
    coverage: float


def spread_of(values: Sequence[float]) -> Spread | None:
    """Median and interval of the values that are not NaN; None where there are none."""
    from scipy.stats import binom

    known = np.sort([value for value in values if not np.isnan(value)])
    n = len(known)
    if n == 0:
        return None
    k = max(1, int(binom.ppf((1 - CONFIDENCE) / 2, n, 0.5)))
    coverage = 1 - 2 * float(binom.cdf(k - 1, n, 0.5)) if n > 1 else 0.0
    return Spread(float(np.median(known)), float(known[k - 1]), float(known[n - k]), n, coverage)


@dataclass(frozen=True)
class Difference:
    """Two points compared seed by seed.

    ratio: median over the seeds of the first's value divided by the second's, NaN where one is
    zero. p: share of the flips that are as extreme; None where there is only one pair (nothing
    was drawn, or one seed was run). is_supported: whether seeds support that there is one.
    """

    ratio: float
    n: int
    p: float | None
    is_supported: bool


def difference_between(one: Sequence[float], other: Sequence[float]) -> Difference | None:
    """The first against the second, paired by position; None where no pair has both values."""
    from scipy.stats import permutation_test

    first, second = np.array(one, dtype=float), np.array(other, dtype=float)
    both = ~(np.isnan(first) | np.isnan(second))
    first, second = first[both], second[both]
    n = len(first)
    if n == 0:
        return None
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.where((first != 0) & (second != 0), first / second, np.nan)
    ratio = float(np.median(ratios))
    if n == 1:
        return Difference(ratio, 1, None, False)
    differences = first - second
    if not differences.any():
        return Difference(1.0, n, 1.0, False)
    test = permutation_test(
        (differences,),
        lambda x, axis: np.mean(x, axis=axis),
        permutation_type="samples",
        n_resamples=RESAMPLES,
        vectorized=True,
        rng=np.random.default_rng(0),
    )
    p = float(test.pvalue)
    return Difference(ratio, n, p, p <= 1 - CONFIDENCE + 1e-12)
