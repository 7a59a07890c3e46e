"""Sequences that change replicas as their policy saves them: llama.cpp's states, centroids."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_up_clocks import FlatTime

from sim.budget import Budget
from sim.cluster.simulation import ClusterSimulation, FinishedCluster, Parts, Plan
from sim.layers import AttentionSpec, LayerSpec
from sim.metrics import request_columns, timeline_columns
from sim.model import ModelSpec
from sim.plugins import policy_of, scheduler_of
from sim.sequence import Sequence
from sim.state import StateSpec
from sim.step import Run, Step
from workloads.request import Request, Traffic, Workload

STATE = LayerSpec(state=StateSpec(kind="mamba", d_inner=64, d_state=8, d_conv=4, dt_rank=4))


def attention(kind="full", window=None):
    heads = {"heads": 4, "kv_heads": 2, "head_dim_k": 32, "head_dim_v": 32}
    return LayerSpec(attention=AttentionSpec(**heads, kind=kind, window=window))


MODELS = {
    "full": (attention(), attention()),
    "windows": (attention(), attention("swa", 40)),
    "states": (STATE, STATE),
    "hybrid": (STATE, attention()),
}
VARIANTS = [
    ("ring", {}, "full"),
    ("ring", {"streams": "per-sequence"}, "full"),
    ("ring", {"window": 48}, "full"),
    ("ring", {"slots": "contiguous", "ubatch": 24}, "full"),
    ("iswa", {}, "windows"),
    ("iswa", {"streams": "per-sequence"}, "windows"),
    ("recurrent", {}, "states"),
    ("hybrid", {}, "hybrid"),
    ("summary", {"window": 24, "centroids": 8}, "full"),
    ("contiguous", {"reserve": "exact"}, "full"),
    ("contiguous", {}, "full"),
    ("radix", {}, "full"),
    ("none", {}, "full"),
]


def budget_for(kind, tokens=1536, **limits):
    model = ModelSpec(kind, MODELS[kind], hidden=128, vocab=100)
    limits = {"max_seqs": 6, "max_batched_tokens": 64, "max_model_len": 200} | limits
    return Budget(model, tokens * model.token_bytes() + 12 * model.state_bytes, **limits)


class Listed(Workload):
    name = "listed"

    def __init__(self, requests):
        self.requests = requests

    def traffic(self):
        return ListedTraffic([Request(i, *each) for i, each in enumerate(self.requests)])


class ListedTraffic(Traffic):
    def __init__(self, requests):
        self._requests = requests

    def arrivals(self):
        return iter(self._requests)


def simulate(requests, budget, plan, policy, options, exact_steps=False):
    made = []

    def make(env) -> Parts:
        fresh = policy_of(policy, budget, options)
        made.append(fresh)
        return Parts(fresh, scheduler_of("vllm", fresh), FlatTime())

    run = ClusterSimulation(Listed(requests), make, plan, exact_steps=exact_steps).run()
    for each in made:
        each.check_integrity()
        assert not list(each.holders())
    return run


def by_request(run: FinishedCluster, column: str) -> list[float]:
    columns = request_columns(run.recorder)
    return np.asarray(columns[column])[np.argsort(columns["request"])].tolist()


def test_a_state_goes_over_the_link_by_hand() -> None:
    # A saved sequence of 8 cells: magic and version; number of streams, cells of the stream, a
    # position and one sequence id with their count a cell; two flags; and of two layers a header
    # and rows of K and of V, 2 heads of 32 elements in 2 bytes.
    size = 8 + 4 + 4 + 8 * (4 + 4 + 4) + 2 * 4 + 2 * 2 * (12 + 8 * 2 * 32 * 2)
    plan = Plan(replicas=1, prefill=1, link_bandwidth=float(size))
    run = simulate([(0.0, 8, 3), (0.5, 8, 2)], budget_for("full"), plan, "ring", {})
    # As with blocks: prompts are done at 2 and 4, carried at 3 and 5; steps of 1.125 s from 3.
    assert by_request(run, "finish_s") == [5.25, 6.375]
    assert by_request(run, "ttft_s") == [2.0, 3.5]
    assert run.summary["link"]["bytes"] == 2 * size


@pytest.mark.parametrize(("policy", "options", "kind"), VARIANTS)
def test_the_other_end_holds_the_same(policy, options, kind) -> None:
    budget = budget_for(kind)
    one, other = (policy_of(policy, budget, options) for _ in range(2))
    request = Request(0, 0.0, 100, 9)
    seq, neighbour = Sequence(0, request), Sequence(1, Request(1, 0.0, 30, 9))
    for each in (neighbour, seq):
        while each.computed < each.prompt:
            n = one.chunk_of(each, each.computed, min(24, each.prompt - each.computed))
            assert one.allocate(each, n)
            one.commit(Step([Run(each, each.computed, n)]))
            each.computed += n
    handed = one.hand_over(seq)
    held = one.held_bytes(seq)
    there = Sequence(7, request)
    there.computed, there.tokens = 100, 101
    if handed is not None:
        other.take_over(there, handed)
        assert handed.bytes > 0
    assert other.swap_in(there) is not None
    if policy in ("ring", "iswa", "recurrent", "hybrid"):
        for group in range(len(one.groups)):
            ours, theirs = (p.cells_of(s, group)[0] for p, s in ((one, seq), (other, there)))
            # Cells that a window has passed stay where they were.
            assert theirs.tolist() == ours[-theirs.size :].tolist()
            full = one.groups[group].kind == "full"
            assert theirs.size == (ours.size if full else theirs.size) > 0
    if policy == "summary":
        assert other.held_bytes(there) == held
    # It goes on there.
    assert other.allocate(there, 1)
    other.commit(Step([Run(there, 100, 1)]))
    there.computed += 1
    other.check_integrity()
    other.release(there)
    assert all(part.free == part.capacity for part in other.usage())


SOME = st.lists(
    st.tuples(st.integers(0, 8), st.integers(1, 90), st.integers(1, 60)), min_size=1, max_size=10
)


@pytest.mark.parametrize(("policy", "options", "kind"), VARIANTS)
@settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck))
@given(given=SOME)
def test_runs_of_steps_give_the_same_bits_as_single_steps(policy, options, kind, given) -> None:
    requests, now = [], 0.0
    for gap, prompt, output in given:
        now += gap
        requests.append((now, prompt, output))
    plan = Plan(replicas=2, prefill=2, router="least-loaded", link_bandwidth=3e5)
    budget = budget_for(kind, tokens=1536 if "streams" in options else 512)
    runs = [simulate(requests, budget, plan, policy, options, exact) for exact in (False, True)]
    first, second = ((request_columns(r.recorder), timeline_columns(r.recorder)) for r in runs)
    np.testing.assert_equal(first, second)
    assert runs[0].summary == runs[1].summary
    columns = first[0]
    assert sorted(columns["request"].tolist()) == list(range(len(given)))
    assert set(columns["status"]) == {"finished"}
    assert runs[0].recorder.counts["output_tokens"] == sum(output for _, _, output in given)
