"""Wall-clock gating: no false alarm in A/A runs, a planted slow-down found, changes in histories.

Noise as benchmarks have it: lognormal with 2 % deviation, one run in fifteen disturbed by 5 to
30 %, and a drift that old and new share because they are measured in turns.
"""

import numpy as np
import pytest

from reports.timing import RUNS, change_points, judge, markdown
from workloads.errors import InputError


def measured(rng, slower=1.0, drifts=0.003):
    """Old and new times, in turns."""
    drift = np.exp(np.cumsum(rng.normal(0, drifts, RUNS)))

    def runs():
        noise = np.exp(rng.normal(0, 0.02, RUNS))
        disturbed = np.where(rng.random(RUNS) < 1 / 15, rng.uniform(1.05, 1.3, RUNS), 1.0)
        return 0.8 * drift * noise * disturbed

    return runs(), slower * runs()


def test_no_false_alarm_in_200_runs_of_the_same_against_itself():
    rng = np.random.default_rng(11)
    assert {judge("same", *measured(rng)).kind for _ in range(200)} == {"alike"}


def test_five_per_cent_slower_is_found_in_95_of_100_and_called_slower():
    rng = np.random.default_rng(12)
    kinds = [judge("slow", *measured(rng, 1.05)).kind for _ in range(100)]
    assert kinds.count("slower") >= 95
    assert "faster" not in kinds


def test_drift_that_both_share_hides_nothing():
    """Ten times the drift: times double and halve while they are measured."""
    rng = np.random.default_rng(15)
    kinds = [judge("slow", *measured(rng, 1.05, drifts=0.03)).kind for _ in range(100)]
    assert kinds.count("slower") >= 90
    assert {judge("same", *measured(rng, drifts=0.03)).kind for _ in range(200)} == {"alike"}


def test_faster_is_told_from_slower_and_small_shifts_are_let_pass():
    rng = np.random.default_rng(13)
    found = judge("fast", *measured(rng, 0.9))
    assert (found.kind, found.ratio) == ("faster", pytest.approx(0.9, abs=0.02))
    many = [np.exp(rng.normal(0, 0.002, 200)) for _ in range(2)]
    found = judge("tiny", many[0], 1.01 * many[1])
    assert found.p < 1e-6
    assert found.kind == "alike"
    assert "+1.0 %" in found.line
    assert "| tiny |" in markdown([found])


def test_too_few_or_impossible_times_are_refused():
    with pytest.raises(InputError, match="at least 8 runs"):
        judge("few", [1.0] * 7, [1.0] * 7)
    with pytest.raises(InputError, match="got 9 and 8"):
        judge("uneven", [1.0] * 9, [1.0] * 8)
    with pytest.raises(InputError, match="above zero"):
        judge("zero", [0.0] * 8, [1.0] * 8)
    with pytest.raises(InputError, match="finite"):
        judge("nan", [float("nan")] * 8, [1.0] * 8)


def test_changes_of_a_history_are_found_where_they_are():
    rng = np.random.default_rng(14)
    levels = np.repeat([1.0, 1.08, 0.95], [20, 15, 25])
    found = change_points(levels * np.exp(rng.normal(0, 0.015, 60)))
    assert len(found) == 2
    assert [each.index for each in found] == pytest.approx([20, 35], abs=1)
    assert [each.ratio for each in found] == pytest.approx([1.08, 0.95 / 1.08], abs=0.02)


def test_a_history_without_changes_has_none():
    rng = np.random.default_rng(15)
    alarms = sum(len(change_points(np.exp(rng.normal(0, 0.02, 40)))) for _ in range(40))
    assert alarms == 0
    assert change_points([1.0] * 9) == []
    assert change_points([1.0] * 30) == []
