"""The JSON formats of github-action-benchmark and Bencher."""

import json

import pytest

from reports.bench_formats import Measured, bencher_json, github_action_json
from workloads.errors import InputError

ROWS = [
    Measured("decode/ring/seconds", 1.5, "s", True, 0.25),
    Measured("decode/ring/Tokens per s", 4000.0, "tok/s", False),
    Measured("start", 0.125, "s", True),
]


def test_each_direction_has_its_own_file_with_range_where_there_is_a_spread():
    assert json.loads(github_action_json(ROWS, smaller_is_better=True)) == [
        {"name": "decode/ring/seconds", "unit": "s", "value": 1.5, "range": "± 0.25"},
        {"name": "start", "unit": "s", "value": 0.125},
    ]
    assert json.loads(github_action_json(ROWS, smaller_is_better=False)) == [
        {"name": "decode/ring/Tokens per s", "unit": "tok/s", "value": 4000.0}
    ]


def test_bencher_has_benchmark_then_measure_then_values():
    assert json.loads(bencher_json(ROWS)) == {
        "decode/ring": {
            "seconds": {"value": 1.5, "lower_value": 1.25, "upper_value": 1.75},
            "tokens-per-s": {"value": 4000.0},
        },
        "start": {"s": {"value": 0.125}},
    }


def test_names_that_are_no_slugs_are_cut_to_what_bencher_takes():
    row = Measured("run/" + "Long Measure " * 20, 1.0, "s", True)
    (measure,) = json.loads(bencher_json([row]))["run"]
    assert len(measure) <= 64
    assert measure.startswith("long-measure-long")
    assert not measure.endswith("-")


def test_what_no_service_would_take_is_refused():
    with pytest.raises(InputError, match="no finite number"):
        Measured("a", float("nan"), "s", True)
    with pytest.raises(InputError, match="no finite number"):
        Measured("a", 1.0, "s", True, float("inf"))
    twice = [Measured("a/s", 1.0, "s", True)] * 2
    with pytest.raises(InputError, match="a/s: measured twice"):
        github_action_json(twice, smaller_is_better=True)
    with pytest.raises(InputError, match="a/s: measured twice"):
        bencher_json(twice)
    with pytest.raises(InputError, match="expected BENCHMARK/MEASURE"):
        bencher_json([Measured("run/", 1.0, "s", True)])
