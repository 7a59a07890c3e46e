"""Length distributions against their own stated means and a slow reference."""

import math

import numpy as np
import pytest
from scipy import stats

from workloads.errors import InputError
from workloads.lengths import (
    ALPACA_OUTPUT,
    ALPACA_PROMPT,
    SHAREGPT_OUTPUT,
    SHAREGPT_PROMPT,
    Constant,
    Empirical,
    Lengths,
    Lognormal,
    Uniform,
    _location_of,
)

DRAWS = 200_000


@pytest.mark.parametrize(
    ("lengths", "published"),
    [
        (SHAREGPT_PROMPT, 161.31),
        (SHAREGPT_OUTPUT, 337.99),
        (ALPACA_PROMPT, 19.31),
        (ALPACA_OUTPUT, 58.45),
    ],
)
def test_models_have_the_published_means(lengths: Lognormal, published: float) -> None:
    drawn = lengths.draw(np.random.default_rng(1), DRAWS)
    assert drawn.mean() == pytest.approx(published, rel=0.01)
    assert drawn.min() >= 1
    assert drawn.max() <= 2048
    assert np.median(drawn) < published  # a tail to the right


@pytest.mark.parametrize(
    ("mean", "sigma", "longest"),
    [(1.5, 1.0, 2048), (20, 2.0, 512), (19.31, 0.5, 30), (700, 1.5, 2048), (16384, 0.7, 98304)],
)
def test_lognormal_keeps_its_mean(mean: float, sigma: float, longest: int) -> None:
    """Against the exact discrete distribution (from scipy's normal) and against draws."""
    location = _location_of(mean, sigma, longest)
    edges = stats.norm.cdf((np.log(np.arange(longest + 1) + 0.5) - location) / sigma)
    chances = np.diff(edges) / (edges[-1] - edges[0])
    exact = float(chances @ np.arange(1, longest + 1))
    assert exact == pytest.approx(mean, rel=0.002)
    drawn = Lognormal(mean, sigma, longest).draw(np.random.default_rng(2), DRAWS)
    spread = math.sqrt(float(chances @ (np.arange(1, longest + 1) - exact) ** 2) / DRAWS)
    assert abs(drawn.mean() - exact) < 5 * spread
    assert 1 <= drawn.min() <= drawn.max() <= longest


@pytest.mark.parametrize(
    "lengths", [Constant(7), Uniform(3, 9), Empirical((5, 5, 1, 40)), Lognormal(30.0)]
)
def test_every_distribution_states_its_mean_and_longest(lengths: Lengths) -> None:
    drawn = lengths.draw(np.random.default_rng(3), DRAWS)
    assert drawn.dtype == np.int64
    assert drawn.shape == (DRAWS,)
    assert drawn.mean() == pytest.approx(lengths.mean, rel=0.02)
    assert drawn.max() <= lengths.longest
    assert lengths.draw(np.random.default_rng(3), 0).size == 0


def test_uniform_reaches_both_ends() -> None:
    assert set(Uniform(3, 6).draw(np.random.default_rng(4), 500).tolist()) == {3, 4, 5, 6}


def test_empirical_draws_by_frequency() -> None:
    drawn = Empirical((5, 5, 1, 40)).draw(np.random.default_rng(5), DRAWS)
    assert set(drawn.tolist()) == {1, 5, 40}
    assert (drawn == 5).mean() == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Constant(0), "constant: tokens: expected a whole number from 1 up to 1e"),
        (lambda: Constant(True), "got True"),
        (lambda: Constant(1.5), "got 1.5"),
        (lambda: Uniform(5, 4), "uniform: high: expected at least low"),
        (lambda: Lognormal(math.nan), "lognormal: tokens: expected a finite number"),
        (lambda: Lognormal(2040.0, 1.0, 2048), "expected a mean well inside 1 to 2048"),
        (lambda: Lognormal(5000.0, 1.0, 2048), "expected a mean well inside 1 to 2048"),
        (lambda: Lognormal(19.31, 0.5, 20), "expected a mean well inside 1 to 20"),
        (lambda: Lognormal(1.0, 1.0, 2048), "expected a mean well inside 1 to 2048"),
        (lambda: Empirical(()), "at least one"),
        (lambda: Empirical((3, 0)), "expected whole numbers of 1 to"),
        (lambda: Lengths.of("workloads.lengths:Lognormal"), "needs the option 'tokens'"),
        (lambda: Lengths.of("workloads.lengths:Lognormal:tokens=many"), "got 'many'"),
        (lambda: Lengths.of("workloads.lengths:Uniform:low=1,hihg=2"), "did you mean 'high'?"),
        (lambda: Lengths.of("workloads.arrivals:Poisson"), "is not a length distribution"),
    ],
)
def test_bad_options_are_refused(make, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InputError) as refused:
        make()
    assert message in str(refused.value)


@pytest.mark.parametrize("lengths", [Constant(7), Uniform(3, 9), Lognormal(30.0, 0.5, 99)])
def test_text_form_reads_back(lengths: Lengths) -> None:
    assert Lengths.of(str(lengths)) == lengths
