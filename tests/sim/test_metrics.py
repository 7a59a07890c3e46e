import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.metrics import (
    Objectives,
    inter_token_latencies,
    request_columns,
    spread_of,
    summary_of,
)
from sim.policies.contiguous import Contiguous
from sim.recorder import Recorder
from sim.sequence import Sequence
from sim.step import Placement, Run, Step
from workloads.request import Request

SECOND = 1 << 30


def recorded(budget, emissions, durations):
    """A recorder that saw steps of these durations (seconds), with who gets a token in each."""
    policy = Contiguous(budget)
    recorder = Recorder(policy)
    seqs: dict[int, Sequence] = {}
    now = 0
    last = {number: step for step, numbers in enumerate(emissions) for number in numbers}
    for index, (numbers, duration) in enumerate(zip(emissions, durations, strict=True)):
        step = Step()
        for number in numbers:
            if number not in seqs:
                total = sum(number in each for each in emissions)
                seqs[number] = Sequence(number, Request(number, 0.0, 5, total))
                step.admitted.append(seqs[number])
                step.runs.append(Run(seqs[number], 0, 5))
            else:
                seq = seqs[number]
                seq.computed = seq.tokens - 1
                step.runs.append(Run(seq, seq.tokens - 1, 1))
        end = now + duration * SECOND
        recorder.occupied(policy.usage(), duration * SECOND)
        recorder.step(now, end, step, Placement(step.runs, ()))
        for number in numbers:
            seqs[number].tokens += 1
            if last[number] == index:
                recorder.finished(seqs[number], end / SECOND)
        now = end
    return recorder


@given(
    st.lists(st.sets(st.integers(0, 3), min_size=1), min_size=1, max_size=12).flatmap(
        lambda emissions: st.tuples(
            st.just(emissions),
            st.lists(st.integers(1, 9), min_size=len(emissions), max_size=len(emissions)),
        )
    )
)
def test_every_inter_token_latency_is_kept(budget_of, made):
    emissions, durations = made
    recorder = recorded(budget_of(), emissions, durations)
    ends = np.cumsum(durations)
    expected = []
    for number in set().union(*emissions):
        moments = [ends[i] for i, numbers in enumerate(emissions) if number in numbers]
        expected += np.diff(moments).tolist()
    values, counts = inter_token_latencies(recorder)
    assert np.repeat(values, counts).tolist() == sorted(expected)


def test_request_columns_of_a_sequence_that_pauses(budget_of):
    recorder = recorded(budget_of(), [{0}, {0, 1}, {1}, {1}, {0}, {0}], [1, 2, 3, 4, 5, 6])
    columns = request_columns(recorder)
    row = columns["request"].tolist().index(0)
    assert columns["ttft_s"][row] == 1
    assert columns["e2e_s"][row] == 21
    assert columns["tpot_s"][row] == pytest.approx(20 / 3)
    assert columns["itl_max_s"][row] == 3 + 4 + 5
    assert columns["itl_p50_s"][row] == 6


def test_goodput_needs_every_objective_of_the_class(budget_of):
    recorder = recorded(budget_of(), [{0}, {0, 1}, {1}], [1, 2, 3])
    columns = request_columns(recorder)

    def goodput(**limits):
        summary = summary_of(recorder, columns, {"default": Objectives(**limits)})
        return summary["goodput_rps"] * summary["makespan_s"]

    assert goodput(ttft_s=3.0, tpot_s=3.0) == pytest.approx(2)
    assert goodput(ttft_s=2.0, tpot_s=3.0) == pytest.approx(1)
    assert goodput(ttft_s=3.0, tpot_s=2.5) == pytest.approx(1)
    assert goodput(ttft_s=0.5, tpot_s=3.0) == 0


def test_summary_of_hand_made_steps(budget_of):
    recorder = recorded(budget_of(), [{0}, {0, 1}, {1}], [1, 2, 3])
    summary = summary_of(recorder, request_columns(recorder), {"default": Objectives()})
    assert summary["requests_completed"] == 2
    assert summary["makespan_s"] == 6
    assert summary["output_tokens_per_s"] == pytest.approx(4 / 6)
    assert summary["total_tokens_per_s"] == pytest.approx(14 / 6)
    assert summary["ttft_s"]["mean"] == 2
    assert summary["itl_s"]["p50"] == 2
    assert summary["itl_s"]["p99"] == 3
    assert summary["itl_cdf"] == [[2.0, 0.5], [3.0, 1.0]]
    assert summary["steps"] == 3
    # Paces of 2/3 and 1/3.
    assert summary["fairness"] == pytest.approx(0.9)


def test_whoever_fails_has_no_pace(budget_of):
    recorder = recorded(budget_of(), [{0}, {0, 1}, {1}], [1, 2, 3])
    recorder.failed(Request(7, 0.0, 5, 2), "no room")
    summary = summary_of(recorder, request_columns(recorder), {"default": Objectives()})
    assert summary["fairness"] == pytest.approx(0.9 * 2 / 3)


@given(st.lists(st.floats(0, 1e6), min_size=1))
def test_spreads_are_ordered_and_within_the_values(values):
    spread = spread_of(np.array(values))
    quantiles = [spread[name] for name in ("p50", "p90", "p95", "p99")]
    assert quantiles == sorted(quantiles)
    assert min(values) <= quantiles[0]
    assert quantiles[-1] <= max(values)


def test_nothing_to_measure_gives_none():
    assert spread_of(np.array([np.nan])) == dict.fromkeys(("mean", "p50", "p90", "p95", "p99"))
