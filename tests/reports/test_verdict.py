from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from reports.evidence import EVIDENCE, clauses_between
from reports.metrics import STATISTICS, metric
from reports.verdict import CRITERIA, fallen_of, ranking_of, verdict_of


def summary(goodput=1.0, output=100.0, p99=1.0, completed=100, failed=0, **others):
    return {
        "goodput_rps": goodput,
        "output_tokens_per_s": output,
        "total_tokens_per_s": 1000.0,
        "makespan_s": 10.0,
        "ttft_s": dict.fromkeys(STATISTICS, p99),
        "requests_completed": completed,
        "requests_failed": failed,
        "reserved_mean": 0.0,
        "internal_fragmentation_mean": 0.0,
        "external_fragmentation_mean": 0.0,
        "prefix_hit_rate": 0.0,
        "preemptions": 0,
        "recomputed_tokens": 0,
        "alloc_failures": 0,
        "swapped_bytes": 0,
        "defrag_bytes": 0,
        "cow_bytes": 0,
        "steps": 1000,
        "caches": [{"name": "kv", "cells": 100, "cell_bytes": 10}],
    } | others


def test_goodput_decides_first():
    verdict = verdict_of({"a": summary(2.0, output=1.0, p99=9.0), "b": summary(1.0, output=5.0)})
    assert verdict.leaders == ("a",)
    assert verdict.headline == (
        "a serves best: goodput 2.00 req/s against 1.00 req/s of b, the next best "
        "(2.0 times as much)."
    )


def test_then_output_then_tail_latency():
    verdict = verdict_of({"a": summary(1.0, 100.0), "b": summary(1.005, 110.0)})
    assert verdict.leaders == ("b",)
    assert verdict.headline.startswith("b serves best: goodput alike, but output 110 tok/s")
    verdict = verdict_of({"a": summary(p99=1.0), "b": summary(p99=0.8)})
    assert verdict.headline == (
        "b serves best: goodput and output alike, but TTFT p99 0.800 s against 1.00 s of a, "
        "the next best (20.0 % less)."
    )


def test_below_one_per_cent_is_negligible():
    verdict = verdict_of({"a": summary(1.0), "b": summary(1.009), "c": summary(1.0, p99=1.009)})
    assert verdict.leaders == ("a", "b", "c")
    assert "a, b and c serve equally well" in verdict.headline
    assert "negligible" in verdict.headline
    assert verdict.details == ()
    assert verdict_of({"a": summary(1.0), "b": summary(1.011)}).leaders == ("b",)


def test_two_leaders_and_one_behind():
    verdict = verdict_of({"a": summary(), "b": summary(0.5), "c": summary()})
    assert verdict.leaders == ("a", "c")
    assert verdict.headline.startswith("a and c serve best and equally well: goodput 1.00 req/s")


def test_one_policy_and_no_finished_request():
    assert verdict_of({"a": summary()}).headline == (
        "Only a ran, so there is nothing to compare it with: goodput 1.00 req/s, output 100 tok/s, "
        "TTFT p99 1.00 s."
    )
    nothing = summary(0.0, 0.0, None, completed=0, failed=1200)
    verdict = verdict_of({"a": nothing, "b": nothing})
    assert verdict.leaders == ()
    assert verdict.headline == "No policy finished a request, so none serves best."
    assert verdict.details[0].startswith("a failed 1,200 of 1,200 requests")


def test_policy_that_finished_nothing_is_last():
    nothing = summary(0.0, 0.0, None, completed=0, failed=100)
    verdict = verdict_of({"a": nothing, "b": summary(), "c": summary(0.5)})
    assert verdict.leaders == ("b",)
    assert ranking_of({"a": nothing, "b": summary(), "c": summary(0.5)}) == ["b", "c", "a"]
    assert any(line.startswith("a failed 100 of 100") for line in verdict.lines)


def test_measured_differences_are_named_with_both_values():
    best = summary(2.0, prefix_hit_rate=0.3, running_mean=20.0)
    worse = summary(
        1.0,
        reserved_mean=0.5,
        preemptions=3,
        recomputed_tokens=500,
        swapped_bytes=2500,
        running_mean=10.0,
    )
    (details, *_) = verdict_of({"best": best, "worse": worse}).details
    for words in (
        "worse: goodput 1.00 req/s (50.0 % less). Measured differences, best in brackets:",
        "ran 10.0 sequences at once on average (20.0)",
        "50.0 % of its memory was reserved for tokens to come (0.0 %)",
        "0.0 % of its prompt tokens came from the prefix cache (30.0 %)",
        "preempted 3 times in 100 requests (0)",
        "tokens computed again were 5.0 % of all it served (0.0 %)",
        "swapped 2.5 times the size of its memory",
    ):
        assert words in details
    assert "holes" not in details and "internal" not in details


def test_what_speaks_against_the_winner_is_said_too():
    verdict = verdict_of({"a": summary(2.0, reserved_mean=0.4), "b": summary(1.0)})
    assert verdict.details == (
        "b: goodput 1.00 req/s (50.0 % less); no other measured difference from a passes its "
        "threshold.",
        "Against a, with b in brackets: 40.0 % of its memory was reserved for tokens to come "
        "(0.0 %).",
    )


def test_thresholds_are_exact():
    for evidence in EVIDENCE:
        assert evidence.between(summary(running_mean=5.0), summary(running_mean=5.0)) is None
    least = summary(internal_fragmentation_mean=0.05)
    assert clauses_between(least, summary()) == [
        "5.0 % of its memory was set aside unused or dead (0.0 %)"
    ]
    assert clauses_between(summary(internal_fragmentation_mean=0.0499), summary()) == []
    assert clauses_between(summary(), least) == []


positive = st.floats(0.0, 100.0) | st.sampled_from([1.0, 1.004, 1.008, 1.012, 1.02])
summaries = st.dictionaries(
    st.text("abcdef", min_size=1, max_size=3),
    st.builds(summary, positive, positive, st.none() | positive),
    min_size=1,
    max_size=6,
)


@given(summaries)
def test_nobody_beats_a_leader_where_he_fell(runs):
    fallen = fallen_of(runs)
    leaders = [name for name in runs if name not in fallen]
    assert leaders
    assert sorted(ranking_of(runs)) == sorted(runs)
    assert set(ranking_of(runs)[: len(leaders)]) == set(leaders)
    for policy, criterion in fallen.items():
        for leader in leaders:
            mine, other = (metric(criterion).value_of(runs[p]) for p in (policy, leader))
            assert mine is None or other is not None
            if mine is not None:
                assert mine < other if metric(criterion).better == "higher" else mine > other
    verdict = verdict_of(runs)
    assert verdict.leaders == tuple(leaders)
    assert all("None" not in line and "nan" not in line for line in verdict.lines)


@given(summaries)
def test_shifting_no_metric_shifts_no_verdict(runs):
    """The verdict looks at nothing but the summaries: what is equal, reads equal."""
    assert verdict_of(runs) == verdict_of({name: dict(run) for name, run in runs.items()})
    assert CRITERIA[0] == "goodput_rps"


def test_a_lossy_policy_is_marked_wherever_it_leads(make_run):
    from reports.table import markdown
    from reports.verdict import verdict_of

    summaries = {
        "paged": make_run("paged", goodput_rps=1.0).summary,
        "summary": make_run("summary", goodput_rps=2.0, lossy="old tokens are gone").summary,
    }
    verdict = verdict_of(summaries)
    assert verdict.leaders == ("summary",)
    assert verdict.headline.endswith("(It is lossy.)")
    assert any("summary is lossy: old tokens are gone." in line for line in verdict.details)
    assert "summary ‡" in markdown(summaries) and "paged ‡" not in markdown(summaries)
