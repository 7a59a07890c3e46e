"""Decode runs of `radix` against single steps, under every eviction policy and little memory.

Prefixes are shared, sequences are refused, preempted and swapped, samples and beams fork. Not only
what was recorded must be the same, but also the free pages in their order, and the tree.
"""

import random
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sim.eviction.base import EVICTORS
from sim.metrics import Objectives, request_columns, summary_of, timeline_columns
from sim.plugins import policy_of, scheduler_of
from sim.simulation import Simulation
from sim.timing.base import TimeModel
from workloads.errors import InputError
from workloads.request import Request, Traffic


class UnevenTime(TimeModel):
    name = "uneven"

    @classmethod
    def of(cls, budget, hardware, path):
        return cls()

    def seconds(self, work):
        cells = sum(reads.cells for reads in work.reads)
        return 0.001 + 1e-6 * work.tokens + 1e-7 * (work.decode_context + cells) / 3.0

    def swap_seconds(self, n_bytes, to_host):
        return 0.01


def made_up(seed):
    """Requests that mostly go on from an earlier one, some of them samples or beams."""
    rng, requests, arrival = random.Random(seed), [], 0.0
    for number in range(rng.randint(3, 20)):
        arrival += rng.random() * rng.choice([0.001, 0.01, 0.03])
        prompt, output = rng.randint(1, 150), rng.randint(1, 80)
        path = ((number, prompt + output),)
        known = [request for request in requests if request.path]
        if known and rng.random() < 0.7:
            before = rng.choice(known)
            shared = rng.randint(1, before.prompt + before.output)
            kept = tuple((branch, end) for branch, end in before.path if end < shared)
            branch = next(branch for branch, end in before.path if end >= shared)
            prompt = max(prompt, shared)
            path = (*kept, (branch, shared), (number, prompt + output))
        several = {1: {"samples": 3}, 2: {"beam_width": 3}}.get(rng.randrange(12), {})
        if rng.random() < 0.1:
            path = None
        requests.append(Request(number, arrival, prompt, output, path, **several))
    return requests


def everything(requests, policy, scheduling, exact_steps):
    """All that a run leaves behind."""
    workload = SimpleNamespace(traffic=lambda: traffic)
    traffic = SimpleNamespace(arrivals=lambda: iter(requests))
    traffic.completed = lambda request, at: Traffic.completed(traffic, request, at)
    recorder = (
        Simulation(
            workload,
            policy,
            scheduler_of("vllm", policy, scheduling),
            UnevenTime(),
            with_maps=True,
            exact_steps=exact_steps,
        )
        .run()
        .recorder
    )
    policy.check_integrity()
    columns = request_columns(recorder)
    summary = summary_of(recorder, columns, {"default": Objectives()})
    return (
        repr((columns, summary, timeline_columns(recorder))),
        policy.manager.pool.free_pages().tolist(),
        [(node.key, node.size, node.pages.tolist()) for node in policy.manager.tree.nodes()],
    )


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.integers(0, 10**6),
    st.sampled_from([1, 4]),
    st.sampled_from(["lru", *EVICTORS.names()]),
    st.booleans(),
    st.sampled_from(["full", "windowed", "chunked"]),
    st.sampled_from([250, 400, 700]),
    st.sampled_from([{}, {"preemption": "swap"}, {"policy": "priority"}]),
)
def test_runs_of_steps_leave_the_same_as_single_steps(
    budget_of, seed, page_size, eviction, whole, kind, tokens, scheduling
):
    options = {"page_size": page_size, "eviction": eviction, "reserve_full_isl": whole}
    budget = budget_of(kind, tokens=tokens)
    one, other = (
        everything(made_up(seed), policy_of("radix", budget, options), scheduling, exact)
        for exact in (False, True)
    )
    assert one == other


def test_wrong_options_are_refused(budget_of):
    with pytest.raises(InputError, match="did you mean 'lru'"):
        policy_of("radix", budget_of(), {"eviction": "lrr"})
    with pytest.raises(InputError, match="page_size"):
        policy_of("radix", budget_of(), {"page_size": 0})
    with pytest.raises(InputError, match="hold no page"):
        policy_of("radix", budget_of(tokens=10), {"page_size": 16})
