"""The fit finds what was put in, and never a negative cost."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import nnls

from backends.calibrate.fit import _least_squares, errors, fitted
from backends.calibrate.point import Point, Sample
from backends.calibrate.run import summary_of
from sim.timing.fitted import Fitted

TRUTH = Fitted(
    2e-5, {"sequences": 3e-7, "gathers": 0.0, "longest": 1e-9}, {"bytes": 4e-13, "flops": 1e-14}
)


def samples_of(truth: Fitted, kernel: str, n: int = 80, noise: float = 0.0) -> list[Sample]:
    rng = np.random.default_rng(4)
    made = []
    for i in range(n):
        cells = int(rng.integers(100, 10**6))
        found = {
            "sequences": int(rng.integers(1, 64)),
            "gathers": cells // 16,
            "longest": cells,
            "bytes": cells * 4096,
            "flops": cells * int(rng.integers(1, 4)) * 200_000,
        }
        seconds = float(truth.seconds(found)) * float(1 + noise * rng.standard_normal())
        made.append(Sample(Point.of(kernel, i=i), found, seconds, seconds, seconds, 1))
    return made


def test_known_costs_are_found_again():
    found = fitted("decode f16", samples_of(TRUTH, "decode f16"))
    assert np.abs(errors(found, samples_of(TRUTH, "decode f16"))).max() < 1e-6
    assert found.fixed == pytest.approx(TRUTH.fixed, rel=1e-3)
    assert found.limits["flops"] == pytest.approx(TRUTH.limits["flops"], rel=1e-3)
    assert found.sums["sequences"] == pytest.approx(3e-7, rel=1e-3)


def test_both_sides_of_a_roofline_are_found():
    truth = Fitted(1e-5, {}, {"bytes": 5e-13, "flops": 2e-15})
    made = []
    for i, tokens in enumerate(2 ** np.arange(14)):
        found = {"bytes": 2 * (10**7 + 8000 * int(tokens)), "flops": 2 * 10**7 * int(tokens)}
        seconds = float(truth.seconds(found))
        made.append(Sample(Point.of("gemm", i=i), found, seconds, seconds, seconds, 1))
    model = fitted("gemm", made)
    for name, cost in truth.limits.items():
        assert model.limits[name] == pytest.approx(cost, rel=1e-3)
    assert np.abs(errors(model, made)).max() < 1e-3


def test_errors_are_relative():
    """A point of a microsecond counts as much as one of a second."""
    made = [
        Sample(Point.of("memcpy", i=i), {"bytes": n}, n * 1e-12 * factor, 0, 0, 1)
        for i, (n, factor) in enumerate([(10**3, 1.0), (10**6, 1.0), (10**12, 1.3)])
    ]
    slope = fitted("memcpy", made).limits["bytes"]
    assert 1e-12 < slope < 1.2e-12


@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(6, 30))
@settings(max_examples=60, deadline=None)
def test_least_squares_agree_with_scipy(seed, columns, rows):
    rng = np.random.default_rng(seed)
    table = rng.standard_normal((rows, columns)) * 10.0 ** rng.integers(-6, 6, columns)
    mine = _least_squares(table)
    theirs, residual = nnls(table, np.ones(rows))
    assert (mine >= 0).all()
    assert np.linalg.norm(table @ mine - 1) == pytest.approx(residual, rel=1e-6, abs=1e-9)
    assert table @ mine == pytest.approx(table @ theirs, rel=1e-4, abs=1e-6)


def test_a_fifth_is_held_out_and_judged():
    made = samples_of(TRUTH, "decode f16", n=100, noise=0.02)
    summary = summary_of(made)
    held = [row for row in summary["points"] if row["held_out"]]
    error = summary["errors"]["decode f16"]
    assert len(held) == error["points"] == 20
    sizes = [abs(row["predicted"] / row["seconds"] - 1) for row in held]
    assert error["median"] == pytest.approx(np.median(sizes))
    assert error["worst"] == max(sizes) and 0.001 < error["median"] < error["p95"] < 0.06
    kept = [row for row in made if row.point.key not in {_key(row) for row in held}]
    again = fitted("decode f16", kept)
    assert summary["models"]["decode f16"] == again.to_json()


def _key(row):
    return Point(row["kernel"], tuple(row["params"].items())).key


def test_numbers_and_arrays_get_the_same_bits():
    found = {
        name: np.arange(1, 50) * 977
        for name in ("sequences", "gathers", "longest", "bytes", "flops")
    }
    together = TRUTH.seconds(found)
    for i in range(49):
        alone = TRUTH.seconds({name: int(values[i]) for name, values in found.items()})
        assert float(alone) == together[i]
