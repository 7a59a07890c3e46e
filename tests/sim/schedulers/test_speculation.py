"""Speculative decoding: by hand, against closed forms, and over every policy with cells watched."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_up_clocks import FlatTime
from step_ends import ends_of

from sim.checking import CheckedRun
from sim.drafter import Drafter, DraftModel, Heads
from sim.layers import LayerSpec
from sim.metrics import Objectives, inter_token_latencies, request_columns, summary_of
from sim.model import ModelSpec
from sim.plugins import policy_of, scheduler_of
from sim.sequence import Sequence
from sim.simulation import Simulation
from sim.speculation import Speculation, constant_rates, rates_of
from sim.state import StateSpec
from workloads.errors import InputError
from workloads.request import Request, Traffic, Workload
from workloads.traces.base import Stream

VLLM_LIKE = ("vllm", "vllm-victims", "static", "orca", "fcfs-no-chunk", "slo")
POLICIES = [
    ("paged", "full", {}),
    ("paged", "full", {"block_size": 4}),
    ("paged", "windowed", {"block_size": 4}),
    ("paged", "chunked", {"prefix_cache": False}),
    ("ring", "full", {}),
    ("ring", "full", {"slots": "contiguous"}),
    ("ring", "full", {"streams": "per-sequence"}),
    ("iswa", "windowed", {}),
    ("contiguous", "full", {"reserve": "oracle"}),
    ("contiguous", "full", {"reserve": "pow2", "fit": "buddy"}),
    ("contiguous", "full", {"reserve": "exact", "compaction": True}),
    ("none", "windowed", {}),
]


class Listed(Workload):
    name = "listed"

    def __init__(self, requests):
        self.requests = requests

    def traffic(self) -> Traffic:
        return Stream(Request(i, *each) for i, each in enumerate(self.requests))


def simulated(requests, budget, rates, policy="paged", scheduler="vllm", **given):
    options = {name: given.pop(name) for name in ("options", "limits") if name in given}
    drafts = {name: given.pop(name) for name in ("seed", "drafter", "lookahead") if name in given}
    cache = policy_of(policy, budget, options.get("options"))
    chosen = scheduler_of(scheduler, cache, options.get("limits"))
    chosen.speculate(Speculation(rates, **drafts))
    recorder = (
        Simulation(Listed(requests), cache, chosen, FlatTime(swap_s=0.25), **given).run().recorder
    )
    cache.check_integrity()
    chosen.forget()
    assert not list(cache.holders())
    return recorder, chosen.counts


# ---- by hand

BY_HAND = [
    # rates, steps after the prompt's, drafted, accepted, tokens of each step
    ((1.0, 1.0, 1.0), 3, 9, 9, [4, 4, 1]),
    ((0.0, 0.0, 0.0), 9, 27, 0, [1] * 9),
    ((1.0, 1.0, 0.0), 3, 9, 6, [3, 3, 3]),
]


@pytest.mark.parametrize(("rates", "steps", "drafted", "accepted", "tokens"), BY_HAND)
@pytest.mark.parametrize("policy", ["paged", "ring", "contiguous", "none"])
def test_one_request_by_hand(budget_of, policy, rates, steps, drafted, accepted, tokens):
    """Prompt of 8 tokens in 2 s, then steps of 1 + 4/8 s until there are 10 tokens."""
    recorder, counts = simulated([(0.0, 8, 10)], budget_of(), rates, policy)
    assert ends_of(recorder).tolist() == [2.0 + 1.5 * i for i in range(steps + 1)] or (
        policy == "none" and len(ends_of(recorder)) == steps + 1
    )
    assert (counts["drafted_tokens"], counts["accepted_tokens"]) == (drafted, accepted)
    assert (counts["decode_steps"], counts["decode_tokens"]) == (steps, sum(tokens))
    assert recorder.counts["output_tokens"] == 10
    assert recorder.counts["recomputed_tokens"] == 0 or policy == "none"
    if policy != "none":
        assert recorder.counts["computed_tokens"] == 8 + 4 * steps
    columns = request_columns(recorder)
    finish = ends_of(recorder)[-1]
    assert columns["ttft_s"].tolist() == [ends_of(recorder)[0]]
    assert columns["tpot_s"].tolist() == [(finish - ends_of(recorder)[0]) / 9]
    # Tokens that arrive together are one arrival, as in vLLM's benchmark.
    values, times = inter_token_latencies(recorder)
    assert times.sum() == steps
    if policy != "none":
        assert values.tolist() == [1.5]


def test_llama_server_drafts_no_further_than_the_last_token(budget_of):
    recorder, counts = simulated([(0.0, 8, 10)], budget_of(), (1.0,) * 4, "ring", "llama-server")
    # 1 token, then 5, then of the 4 that are left one is the model's own.
    assert (counts["drafted_tokens"], counts["accepted_tokens"]) == (4 + 3, 7)
    assert ends_of(recorder).tolist() == [2.0, 2.0 + 1.625, 2.0 + 1.625 + 1.5]


def test_a_full_context_cuts_drafts(budget_of):
    """llama-server: up to two cells before the end; what then fills it is not all sent."""
    limits = {"tokens": 256, "max_seqs": 1, "max_model_len": 16}
    requests = [(0.0, 8, 100)]
    for rates, steps in (((1.0,) * 4, [2.0, 3.625, 4.75]), ((0.0,) * 4, 8)):
        recorder, counts = simulated(
            requests, budget_of(**limits), rates, "ring", "llama-server", limits={"cache_ram": 0}
        )
        if isinstance(steps, int):
            assert len(ends_of(recorder)) == steps
            assert recorder.counts["output_tokens"] == 8
        else:
            # 8 held, then 13 with 5 new tokens; the draft of 1 fills all but one cell.
            assert ends_of(recorder).tolist() == [2.0, 3.625, 4.875]
            assert recorder.counts["output_tokens"] == 1 + 5 + 1
        assert counts["truncated_sequences"] == 1


def test_the_longest_length_allowed_cuts_drafts(budget_of):
    """vLLM computes no token beyond the last but one of the longest length."""
    from sim.schedulers.vllm import VllmScheduler

    policy = policy_of("paged", budget_of())
    scheduler = VllmScheduler(policy, VllmScheduler.Options(max_model_len=14))
    scheduler.speculate(Speculation((1.0,) * 3))
    seq = Sequence(0, Request(0, 0.0, 8, 100))
    scheduler.add(seq)
    taken = []
    while scheduler.has_work:
        step = scheduler.schedule()
        taken.append([run.n for run in step.runs])
        policy.commit(step)
        scheduler.update(step)
    assert taken == [[8], [4], [1]]
    assert seq.tokens == 14


def test_the_budget_of_a_step_cuts_drafts(budget_of):
    recorder, counts = simulated(
        [(0.0, 2, 9), (0.0, 2, 9)], budget_of(), (1.0,) * 3, limits={"max_batched_tokens": 6}
    )
    # 2 + 2, then twice 4 and what is left of the budget, 2; then the second request has 4 to go.
    assert ends_of(recorder).tolist() == [1.5, 3.25, 5.0, 6.5]
    assert counts["drafted_tokens"] == counts["accepted_tokens"] == 3 + 1 + 3 + 1 + 3
    assert recorder.counts["output_tokens"] == 18


# ---- blocks and cells

STEP = (0.6, 0.4, 0.2)


def stepping(scheduler, policy, requests):
    seqs = [Sequence(i, Request(i, 0.0, *each)) for i, each in enumerate(requests)]
    for seq in seqs:
        scheduler.add(seq)
    while scheduler.has_work:
        step = scheduler.schedule()
        policy.commit(step)
        yield seqs, step, "scheduled"
        scheduler.update(step)
        yield seqs, step, "updated"


def test_rejected_tokens_give_their_cells_back_to_the_ring(budget_of):
    policy = policy_of("ring", budget_of())
    scheduler = scheduler_of("vllm", policy)
    scheduler.speculate(Speculation(STEP))
    rejected = 0
    for _, step, when in stepping(scheduler, policy, [(20, 30), (30, 20), (7, 25)]):
        used = policy.caches[0].streams[0].used
        assert used == sum(seq.computed for seq in scheduler.running)
        if when == "scheduled":
            rejected += sum(draft.rejected for draft in step.drafts.values())
    assert rejected > 30


def test_blocks_stay_and_are_used_again(budget_of):
    policy = policy_of("paged", budget_of(), {"block_size": 4})
    scheduler = scheduler_of("vllm", policy)
    scheduler.speculate(Speculation((0.0,) * 4))
    for seqs, _, when in stepping(scheduler, policy, [(8, 6)]):
        if seqs[0].id in policy.manager.holdings and seqs[0].tokens > 9:
            # 4 drafts behind the token that is computed, accepted or not.
            blocks = len(policy.manager.holdings[0].tables[0].blocks)
            last = seqs[0].computed + (4 if when == "updated" else 0)
            assert blocks == -(-last // 4)


def test_a_lookahead_takes_blocks_and_a_fork_does_not_share_them(budget_of):
    policy = policy_of("paged", budget_of(), {"block_size": 4})
    scheduler = scheduler_of("vllm", policy, {"max_batched_tokens": 6})
    scheduler.speculate(Speculation((1.0,) * 4, lookahead=4))
    seq = Sequence(0, Request(0, 0.0, 12, 8))
    scheduler.add(seq)
    scheduler.update(step := scheduler.schedule())
    assert len(policy.manager.holdings[0].tables[0].blocks) == 2  # 6 tokens, none ahead at first
    step = scheduler.schedule()
    policy.commit(step)
    scheduler.update(step)
    assert len(policy.manager.holdings[0].tables[0].blocks) == 4  # 12 tokens and 4 ahead
    child = Sequence(1, seq.request, 1)
    assert scheduler.fork(seq, child)
    assert len(policy.manager.holdings[1].tables[0].blocks) == 3
    policy.check_integrity()


@st.composite
def traffic(draw):
    n = draw(st.integers(1, 7))
    sizes = st.tuples(st.integers(0, 40), st.integers(1, 110), st.integers(1, 40))
    requests = []
    for number, (gap, prompt, output) in enumerate(draw(st.tuples(*[sizes] * n))):
        arrival = gap + (requests[-1].arrival if requests else 0)
        path = ((0, min(prompt, 32)), (number + 1, prompt + output)) if number % 2 else None
        requests.append(Request(number, float(arrival), prompt, output, path))
    return requests


falling = st.lists(st.sampled_from((0.0, 0.2, 0.5, 0.8, 1.0)), min_size=1, max_size=6).map(
    lambda rates: sorted(rates, reverse=True)
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.sampled_from(POLICIES),
    st.sampled_from((*VLLM_LIKE, "llama-server")),
    traffic(),
    falling,
    st.sampled_from((0, 3)),
    st.integers(256, 700),
)
def test_every_cell_is_the_right_token_after_every_step(
    budget_of, policy, scheduler, requests, rates, lookahead, tokens
):
    """`CheckedRun` writes rejected drafts as nobody's: whoever reads one of them is caught."""
    name, kind, options = policy
    if scheduler == "llama-server":
        if name not in ("ring", "iswa") or options.get("slots"):
            return
        tokens = 3000
    if options.get("streams"):
        tokens += 6 * 256
    cache = policy_of(name, budget_of(kind, tokens=tokens), options)
    chosen = scheduler_of(scheduler, cache)
    chosen.speculate(Speculation(rates, lookahead=lookahead))
    run = CheckedRun(cache, longest_run=lambda: 16, scheduler=chosen)
    run.serve(requests)
    fitting = [r for r in requests if not chosen.misfit_of(Sequence(0, r))]
    assert len(run.finished) == len(fitting)
    assert all(seq.tokens == seq.limit for seq in run.finished)
    counts = chosen.counts
    assert counts["decode_tokens"] <= counts["decode_steps"] + counts["accepted_tokens"]
    assert counts["accepted_tokens"] <= counts["drafted_tokens"]
    assert counts["accepted_at_1"] <= counts["drafts"]


@pytest.mark.parametrize("preemption", ["recompute", "swap"])
@pytest.mark.parametrize("policy", ["paged", "ring"])
def test_preemption_under_pressure_loses_no_token(budget_of, policy, preemption):
    requests = [(i / 4, 10 + 7 * i % 40, 60) for i in range(12)]
    recorder, counts = simulated(
        requests,
        budget_of(tokens=256),
        STEP,
        policy,
        limits={"preemption": preemption},
        lookahead=3,
    )
    assert recorder.counts["preemptions"] > 5
    assert recorder.counts["output_tokens"] == sum(output for _, _, output in requests)
    # A sequence that comes back computes its tokens again in a step that is none of decoding.
    assert counts["decode_tokens"] <= recorder.counts["output_tokens"] - len(requests)


# ---- what is drawn


def draws(speculation, n=10_000):
    seq = Sequence(0, Request(7, 0.0, 1, n + 1))
    found = []
    for tokens in range(1, n + 1):
        seq.tokens = tokens
        found.append(speculation.accepted(seq, speculation.tokens))
    return np.array(found)


@pytest.mark.parametrize("rate", [0.0, 0.3, 0.6, 0.8, 0.95, 1.0])
@pytest.mark.parametrize("tokens", [1, 4, 8])
def test_tokens_of_a_step_are_those_of_leviathan(rate, tokens):
    made = 1 + draws(Speculation(constant_rates(rate, tokens), seed=3))
    expected = tokens + 1 if rate == 1 else (1 - rate ** (tokens + 1)) / (1 - rate)
    assert abs(made.mean() - expected) <= 4 * made.std() / len(made) ** 0.5 + 1e-12


def test_rates_by_position_come_out():
    rates = (0.9, 0.5, 0.45, 0.1)
    found = draws(Speculation(rates, seed=1), n=40_000)
    for position, rate in enumerate(rates, 1):
        assert abs((found >= position).mean() - rate) < 0.01
    # Steps do not depend on the one before.
    assert abs(np.corrcoef(found[:-1], found[1:])[0, 1]) < 0.02


def test_draws_depend_on_seed_request_sample_and_length_alone():
    def accepted(seed=0, request=0, sample=0, tokens=20):
        seq = Sequence(99, Request(request, 0.0, 8, 100), sample)
        seq.tokens = tokens
        return Speculation((0.7, 0.6, 0.5, 0.4, 0.3), seed).accepted(seq, 5)

    assert len({accepted() for _ in range(5)}) == 1
    for name in ("seed", "request", "sample", "tokens"):
        assert len({accepted(**{name: value}) for value in range(20, 60)}) > 3, name


def test_policies_and_arrivals_draw_the_same(budget_of):
    """With room for all, acceptance differs neither by policy nor by who else runs."""
    found = set()
    for policy in ("paged", "ring", "contiguous", "none"):
        for gap in (0.0, 3.0):
            requests = [(gap * i, 10 + i, 30) for i in range(5)]
            _, counts = simulated(requests, budget_of(), STEP, policy, seed=5)
            found.add(tuple(counts.values()))
    assert len(found) == 1


def test_exact_steps_change_nothing(budget_of):
    requests = [(i / 2, 10 + 7 * i % 40, 30) for i in range(12)]
    found = []
    for exact_steps in (False, True):
        recorder, _ = simulated(requests, budget_of(), STEP, exact_steps=exact_steps)
        columns = request_columns(recorder)
        found.append(summary_of(recorder, columns, {"default": Objectives()}))
    assert found[0] == found[1]


def test_beams_are_not_drafted_for(budget_of):
    budget = budget_of()
    policy = policy_of("paged", budget)
    scheduler = scheduler_of("vllm", policy)
    scheduler.speculate(Speculation((1.0,) * 3))
    requests = [Request(0, 0.0, 10, 12, beam_width=3), Request(1, 0.0, 10, 12, samples=2)]

    class Both(Workload):
        name = "both"

        def traffic(self):
            return Stream(iter(requests))

    recorder = Simulation(Both(), policy, scheduler, FlatTime(swap_s=0.25)).run().recorder
    assert recorder.counts["output_tokens"] == 3 * 12 + 2 * 12
    # Two samples, each with 11 tokens after the first, of 3 + 1 a step.
    assert scheduler.counts["drafts"] == 2 * 3
    assert scheduler.counts["decode_tokens"] == 3 * 11 + 2 * 11


# ---- what it costs


class Noted(Drafter):
    def __init__(self):
        self.asked = []

    def seconds(self, step, verifying, lengths, passes):
        self.asked.append((sum(run.n for run in step.runs), verifying, lengths, passes))
        return 0.5


def test_vllm_drafts_at_the_end_of_a_step_and_llama_server_first(budget_of):
    noted = Noted()
    recorder, _ = simulated([(0.0, 8, 10)], budget_of(), (1.0,) * 3, drafter=noted)
    assert noted.asked == [
        (8, 2.0, [9], 2),
        (4, 1.5, [13], 2),
        (4, 1.5, [17], 2),
        (4, 1.5, [18], 2),
    ]
    assert ends_of(recorder).tolist() == [2.5, 4.5, 6.5, 8.5]
    noted = Noted()
    simulated([(0.0, 8, 10)], budget_of(), (1.0,) * 3, "ring", "llama-server", drafter=noted)
    # Of the 9 tokens to come the first two drafts bring 4 each, and the last needs none.
    assert [each[2:] for each in noted.asked] == [([], 0), ([9], 3), ([13], 3), ([], 0)]


def test_heads_cost_a_share_of_the_step(budget_of):
    step = None
    assert Heads(0.05, 4).seconds(step, 2.0, [], 0) == pytest.approx(0.4)


def test_a_draft_model_takes_a_pass_for_each_further_token(budget_of):
    budget = budget_of()
    clock = FlatTime(swap_s=0.25)
    recorder, _ = simulated(
        [(0.0, 8, 10)], budget, (1.0,) * 3, drafter=DraftModel(budget.model, clock)
    )
    # The step's own tokens again, and two passes of one token: of the prompt 2 + 2 x 1.125.
    ends = np.cumsum([2.0 + 2.0 + 2.25] + [1.5 + 1.5 + 2.25] * 3)
    assert ends_of(recorder).tolist() == ends.tolist()


def test_rates_of_counts():
    counts = Counter(drafts=4, drafted_tokens=12, accepted_tokens=6, decode_steps=5)
    counts["decode_tokens"] = 10
    assert rates_of(counts) == {
        "acceptance_rate": 0.5,
        "acceptance_length": 2.5,
        "decode_tokens_per_step": 2.0,
    }
    assert set(rates_of(Counter()).values()) == {None}


# ---- who cannot


@pytest.mark.parametrize("scheduler", ["vllm-async", "sglang"])
def test_schedulers_that_cannot_say_so(budget_of, scheduler):
    chosen = scheduler_of(scheduler, policy_of("paged", budget_of()))
    with pytest.raises(InputError, match=f"scheduler '{scheduler}' verifies no drafts; expected"):
        chosen.speculate(Speculation((0.5,)))


@pytest.mark.parametrize("policy", ["radix", "summary"])
def test_policies_that_cannot_say_so(budget_of, policy):
    chosen = scheduler_of("vllm", policy_of(policy, budget_of()))
    with pytest.raises(InputError, match=f"policy '{policy}' takes no tokens back; expected"):
        chosen.speculate(Speculation((0.5,)))


def states_budget(budget_of):
    state = LayerSpec(state=StateSpec(kind="mamba", d_inner=64, d_state=8, d_conv=4, dt_rank=4))
    full = budget_of().model.layers[0]
    model = ModelSpec("mixed", (state, full), hidden=128, vocab=100)
    from dataclasses import replace

    return replace(budget_of(), model=model, bytes=1024 * model.token_bytes() + (1 << 20))


def test_states_need_snapshots(budget_of):
    budget = states_budget(budget_of)
    with pytest.raises(InputError, match=r"hybrid\.snapshots: expected at least 3"):
        scheduler_of("vllm", policy_of("hybrid", budget, {"snapshots": 2})).speculate(
            Speculation((0.5,) * 3)
        )
    with pytest.raises(InputError, match="paged keeps one recurrent state a sequence of mixed"):
        scheduler_of("vllm", policy_of("paged", budget)).speculate(Speculation((0.5,)))
    cache = policy_of("hybrid", budget, {"snapshots": 3})
    chosen = scheduler_of("vllm", cache)
    chosen.speculate(Speculation(STEP))
    run = CheckedRun(cache, scheduler=chosen)
    run.serve([Request(i, 3.0 * i, 20 + 9 * i, 30) for i in range(6)])
    assert len(run.finished) == 6


def test_a_batch_must_hold_the_drafts_of_all_slots(budget_of):
    chosen = scheduler_of("llama-server", policy_of("ring", budget_of()), {"n_batch": 20})
    with pytest.raises(InputError, match="n_batch: expected at least 24, a token and 3 drafts"):
        chosen.speculate(Speculation((0.5,) * 3))
