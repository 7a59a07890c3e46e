"""Beam search and parallel samples: who goes on from whom, and what is shared meanwhile."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_clocks import CrookedTime

from sim.beams import Ancestry, replacements
from sim.metrics import (
    Objectives,
    inter_token_latencies,
    request_columns,
    summary_of,
    timeline_columns,
)
from sim.plugins import policy_of, scheduler_of
from sim.simulation import Simulation
from workloads.request import Request, Traffic, Workload


class Listed(Workload):
    name = "listed"

    def __init__(self, requests):
        self.requests = requests

    def traffic(self):
        traffic = SimpleNamespace(arrivals=lambda: iter(self.requests))
        traffic.completed = lambda request, at: Traffic.completed(traffic, request, at)
        return traffic


def simulate(requests, budget, policy="paged", scheduler=None, **simulation):
    policy = policy_of(policy, budget)
    scheduler = scheduler_of("vllm", policy, scheduler)
    return Simulation(
        Listed(requests), policy, scheduler, CrookedTime(swap_s=0.01), **simulation
    ).run()


def searching(id, arrival, prompt, output, width, path=None):
    return Request(id, arrival, prompt, output, path, beam_width=width)


# Who goes on from whom.


def test_an_ancestry_is_its_request_s_own_and_repeats():
    one, again, other = (Ancestry(request, 4, 200) for request in (7, 7, 8))
    lengths = range(1, 201)
    same = [one.parents_at(n) == again.parents_at(n) for n in lengths]
    assert all(same)
    assert any(one.parents_at(n) != other.parents_at(n) for n in lengths)
    assert one.parents_at(1) is None and one.parents_at(200) is None


def test_steps_to_change_lead_to_the_next_length_at_which_a_beam_dies():
    ancestry = Ancestry(3, 3, 60)
    changes = [n for n in range(1, 61) if ancestry.parents_at(n) is not None]
    for length in range(1, 60):
        coming = [n for n in changes if n > length]
        assert ancestry.steps_to_change(length) == (coming[0] - length if coming else None)
    for length in changes:
        assert len(set(ancestry.parents_at(length))) < 3


def test_turnover_is_the_share_of_beams_chosen_anew():
    """With all beams drawn anew, how many have no child is known from throwing k balls."""
    width, output = 4, 20_000
    ancestry = Ancestry(1, width, output, turnover=1.0)
    dead = sum(width - len(set(ancestry.parents_at(n) or range(width))) for n in range(2, output))
    assert dead / (output - 2) == pytest.approx(width * (1 - 1 / width) ** width, rel=0.03)
    assert Ancestry(1, width, output, turnover=0.0).steps_to_change(1) is None


@given(st.lists(st.integers(0, 5), min_size=6, max_size=6))
def test_replacements_leave_every_beam_with_as_many_children_as_chose_it(parents):
    after = list(range(6))
    for dying, parent in replacements(dict(enumerate(parents))):
        assert dying not in parents
        after[dying] = parent
    assert sorted(after) == sorted(parents)


# What the engine does with it.


def test_beams_compute_their_prompt_once_and_one_token_a_step_each(budget_of):
    recorder = simulate([searching(0, 0.0, 40, 50, 4)], budget_of()).recorder
    assert recorder.counts["computed_tokens"] == 40 + 4 * 49
    assert recorder.counts["output_tokens"] == 4 * 50
    assert sorted(recorder.rows.column("sample")) == [0, 1, 2, 3]
    assert recorder.rows.column("status") == ["finished"] * 4
    assert recorder.counts["cow_bytes"] > 0


def test_beams_that_go_on_from_one_another_hold_less_than_samples_that_do_not(budget_of):
    budget = budget_of(tokens=4000, max_model_len=800)
    beams = simulate([searching(0, 0.0, 40, 600, 4)], budget).recorder
    samples = simulate([Request(0, 0.0, 40, 600, samples=4)], budget).recorder
    assert beams.peak_live < 0.4 * samples.peak_live


@pytest.mark.parametrize("policy", ["none", "contiguous", "ring", "iswa", "paged", "radix"])
def test_every_policy_serves_beam_search_and_gives_everything_back(budget_of, policy):
    requests = [searching(i, 0.001 * i, 30 + i, 20, 1 + i % 4) for i in range(8)]
    recorder = simulate(requests, budget_of(tokens=600), policy).recorder
    assert recorder.rows.column("status").count("finished") == sum(r.beam_width for r in requests)
    assert recorder.policy.usage()[0].free == recorder.policy.usage()[0].capacity


def test_a_request_for_which_no_room_can_be_made_fails_once_with_all_its_beams(budget_of):
    """More beams than can run: those that wait for the end of the others come to their turn."""
    budget = budget_of(tokens=400, max_seqs=2, max_model_len=300)
    recorder = simulate([searching(0, 0.0, 100, 60, 3)], budget).recorder
    assert recorder.rows.column("status") == ["finished"] * 3


def test_a_preempted_sequence_streams_up_to_its_preemption(budget_of):
    requests = [Request(0, 0.0, 100, 60), Request(1, 0.0, 100, 60)]
    recorder = simulate(requests, budget_of(tokens=256, max_seqs=2), "ring").recorder
    assert recorder.counts["preemptions"] == 1
    _, counts = inter_token_latencies(recorder)
    assert counts.sum() == 2 * 59
    cut = recorder.stretches[-1]
    assert len(cut) == 2 and cut[0][1] > cut[0][0]


requests = st.lists(
    st.tuples(
        st.floats(0, 0.3), st.integers(1, 90), st.integers(1, 60), st.integers(1, 4), st.booleans()
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=60, deadline=None)
@given(
    requests,
    st.sampled_from(["contiguous", "ring", "paged", "radix"]),
    st.sampled_from(["full", "windowed"]),
    st.sampled_from([{}, {"preemption": "swap"}, {"policy": "priority"}]),
    st.sampled_from([300, 2000]),
)
def test_runs_of_steps_give_the_same_bits_as_single_steps(
    budget_of, listed, policy, kind, scheduler, tokens
):
    made = [
        searching(i, arrival, prompt, output, width, ((5, prompt + output),) if public else None)
        for i, (arrival, prompt, output, width, public) in enumerate(sorted(listed))
    ]
    results = []
    for exact_steps in (False, True):
        recorder = simulate(
            made,
            budget_of(kind, tokens=tokens, max_batched_tokens=64),
            policy,
            scheduler,
            exact_steps=exact_steps,
            with_maps=True,
        ).recorder
        columns = request_columns(recorder)
        summary = summary_of(recorder, columns, {"default": Objectives()})
        results.append(repr((columns, summary, timeline_columns(recorder))))
        recorder.policy.check_integrity()
        assert np.isfinite(columns["finish_s"][columns["output"] > 0]).all() or "failed" in (
            recorder.rows.column("status")
        )
    assert results[0] == results[1]
