"""Medians with intervals, and differences that seeds support."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reports.seeds import difference_between, spread_of


@pytest.mark.parametrize(
    # Order-statistic intervals of a median, as in tables of distribution-free statistics.
    ("n", "k", "coverage"),
    [(1, 1, 0.0), (3, 1, 0.75), (5, 1, 0.9375), (6, 1, 0.96875), (10, 2, 0.9785), (20, 6, 0.9586)],
)
def test_the_interval_is_the_tabled_one(n, k, coverage):
    values = [float(value) for value in np.random.default_rng(1).permutation(n)]
    found = spread_of(values)
    assert (found.median, found.low, found.high, found.n) == ((n - 1) / 2, k - 1, n - k, n)
    assert found.coverage == pytest.approx(coverage, abs=1e-4)


def test_nothing_has_no_spread():
    assert spread_of([]) is None
    assert spread_of([float("nan")]) is None
    assert difference_between([float("nan"), 1.0], [1.0, float("nan")]) is None


def test_the_interval_covers_the_median_as_often_as_it_says():
    rng = np.random.default_rng(2)
    draws = rng.exponential(size=(2000, 8))
    found = [spread_of(list(row)) for row in draws]
    covered = np.mean([each.low <= np.log(2) <= each.high for each in found])
    assert covered == pytest.approx(found[0].coverage, abs=0.02)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(-50, 50), min_size=2, max_size=7))
def test_p_is_the_share_of_sign_flips_as_extreme(differences):
    flips = [
        abs(sum(sign * each for sign, each in zip(signs, differences, strict=True)))
        for signs in product((1, -1), repeat=len(differences))
    ]
    expected = np.mean([flip >= abs(sum(differences)) for flip in flips])
    second = [100.0] * len(differences)
    found = difference_between([100.0 + each for each in differences], second)
    assert found.p == pytest.approx(min(1.0, expected))
    assert found.is_supported == (expected <= 0.05)


def test_five_seeds_cannot_support_a_difference_and_six_can():
    high, low = [2.0, 2.1, 2.2, 2.3, 2.4, 2.5], [1.0, 1.1, 1.2, 1.3, 1.4, 1.5]
    assert not difference_between(high[:5], low[:5]).is_supported
    found = difference_between(high, low)
    assert found.is_supported
    assert found.p == pytest.approx(2 / 64)
    assert found.ratio == pytest.approx(np.median(np.divide(high, low)))
    assert not difference_between([2.0], [1.0]).is_supported


def test_noise_is_called_a_difference_about_one_time_in_twenty():
    rng = np.random.default_rng(3)
    draws = rng.normal(size=(400, 2, 8))
    called = np.mean([difference_between(a, b).is_supported for a, b in draws])
    assert 0.02 <= called <= 0.08
