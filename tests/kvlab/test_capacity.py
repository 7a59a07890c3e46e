"""The search for the highest rate that meets the objectives."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvlab.study.capacity import bisect
from kvlab.study.schema import Capacity, Study
from kvlab.study.sweeping import sweep
from reports.capacity_table import capacity_rows


@settings(max_examples=50, deadline=None)
@given(st.floats(1.01, 99.0), st.floats(0.001, 0.5))
def test_it_ends_within_the_tolerance_of_where_the_share_falls(limit, tolerance):
    wanted = Capacity(low=1.0, high=100.0, share=0.9, tolerance=tolerance)
    found = bisect(lambda rate: 0.95 if rate <= limit else 0.85, wanted)
    assert found.verdict == "found"
    assert found.rate <= limit < found.rate * (1 + tolerance) * (1 + 1e-12)
    assert len(found.probes) <= 3 + math.log2(math.log(100) / math.log1p(tolerance))
    assert found.probes == bisect(lambda rate: 0.95 if rate <= limit else 0.85, wanted).probes


def test_bounds_that_are_not_reached_are_said():
    wanted = Capacity(low=1.0, high=10.0, share=0.9)
    found = bisect(lambda rate: 0.0, wanted)
    assert (found.verdict, found.rate, len(found.probes)) == ("not even the lowest", None, 1)
    found = bisect(lambda rate: 0.9, wanted)
    assert (found.verdict, found.rate, len(found.probes)) == ("even the highest", 10.0, 2)


def test_a_study_searches_for_every_policy_and_seed(tmp_path):
    study = Study.of(
        {
            "workload": "sharegpt",
            "requests": 15,
            "rate": 1.0,
            "kv_tokens": 4096,
            "max_seqs": 2,
            "seeds": 2,
            "policies": ["contiguous", "paged"],
            "slo": {"default": {"ttft_s": 0.5, "tpot_s": 0.05}},
            "capacity": {"low": 0.01, "high": 200.0, "tolerance": 0.5},
        }
    )
    stored = sweep(study, tmp_path / "out", jobs=1)
    rows = capacity_rows(stored)
    assert [row.labels for row in rows] == [("contiguous",), ("paged",)]
    for search in stored.index["searches"]:
        found = stored.search_of(search)
        assert found["verdict"] == "found"
        shares = dict(found["probes"])
        assert shares[found["rate"]] >= 0.9
        worse = min(rate for rate, share in found["probes"] if share < 0.9)
        assert found["rate"] < worse <= found["rate"] * 1.5 * (1 + 1e-9)
    assert rows[0].median == pytest.approx(
        sorted(stored.search_of(s)["rate"] for s in stored.index["searches"][:2])[0]
    )
