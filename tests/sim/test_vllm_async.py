"""Asynchronous scheduling against a plain loop with two steps in flight, as vLLM's engine has."""

from collections import deque

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_up_clocks import FlatTime
from step_ends import ends_of

from sim.metrics import request_columns
from sim.policies.paged import Paged
from sim.schedulers.vllm import VllmScheduler
from sim.schedulers.vllm_async import AsyncVllmScheduler
from sim.simulation import Simulation
from workloads.request import Request, Traffic, Workload
from workloads.traces.base import Stream

MAX_SEQS, BUDGET = 3, 40


class Listed(Workload):
    name = "listed"

    def __init__(self, requests):
        self.requests = requests

    def traffic(self) -> Traffic:
        return Stream(Request(i, *each) for i, each in enumerate(self.requests))


def simulated(requests, budget, cls=AsyncVllmScheduler, **options):
    policy = Paged(budget)
    limits = VllmScheduler.Options(max_seqs=MAX_SEQS, max_batched_tokens=BUDGET, max_model_len=400)
    simulation = Simulation(
        Listed(requests), policy, cls(policy, limits), FlatTime(swap_s=0.0), **options
    )
    recorder = simulation.run().recorder
    assert not list(policy.holders())
    policy.check_integrity()
    return recorder


def first_and_last(recorder):
    columns = request_columns(recorder)
    arrival = columns["arrival_s"]
    rows = zip(
        columns["request"].tolist(),
        (arrival + columns["ttft_s"]).tolist(),
        (arrival + columns["e2e_s"]).tolist(),
        strict=True,
    )
    return {request: (first, last) for request, first, last in rows}


def as_vllm_loops(requests):
    """First and last token times, from vLLM's busy loop written down with its two queues.

    Memory is ample here, so a step is a matter of slots and token budget alone.
    """
    inbox = deque(enumerate(requests))
    waiting, running, flying = deque(), [], deque()
    known: dict[int, int] = {}
    computed: dict[int, int] = {}
    times: dict[int, tuple[float, float]] = {}
    now, free_at = 0.0, 0.0
    while inbox or waiting or running or flying:
        if not (waiting or running or flying):
            now = max(now, inbox[0][1][0])
        while inbox and inbox[0][1][0] <= now:
            waiting.append(inbox.popleft()[0])
        left, step = BUDGET, []
        for i in running:
            _, prompt, output = requests[i]
            # With its last token on the way a request is not scheduled, but keeps its slot.
            if known[i] < prompt + output and left:
                n = min(known[i] - computed[i], left)
                step.append((i, n))
                left -= n
        while waiting and left and len(running) < MAX_SEQS:
            i = waiting.popleft()
            known[i], computed[i] = requests[i][1], 0
            n = min(known[i], left)
            running.append(i)
            step.append((i, n))
            left -= n
        tokens = []
        for i, n in step:
            computed[i] += n
            if computed[i] == known[i]:
                known[i] += 1  # a placeholder for the token to come
                tokens.append((i, known[i]))
        if step:
            flying.append((sum(n for _, n in step), now, tokens))
            if len(flying) < 2:
                continue
        if not flying:
            now = max(now, inbox[0][1][0])
            continue
        rows, scheduled, tokens = flying.popleft()
        now = free_at = max(free_at, scheduled) + 1.0 + 0.125 * rows
        for i, length in tokens:
            _, prompt, output = requests[i]
            if length == prompt + 1:
                times[i] = (now, now)
            if length == prompt + output:
                times[i] = (times[i][0], now)
                running.remove(i)
    return times


REQUESTS = st.lists(
    st.tuples(st.integers(0, 200), st.integers(1, 90), st.integers(1, 30)), min_size=1, max_size=12
).map(lambda rows: sorted((gap / 4, prompt, output) for gap, prompt, output in rows))


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(REQUESTS)
def test_times_are_those_of_a_loop_with_two_steps_in_flight(budget_of, requests):
    expected = as_vllm_loops(requests)
    for exact_steps in (False, True):
        recorder = simulated(requests, budget_of(tokens=4096), exact_steps=exact_steps)
        assert first_and_last(recorder) == expected


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(REQUESTS)
def test_runs_and_single_steps_agree_under_memory_pressure(budget_of, requests):
    budget = budget_of(tokens=256)
    leaps, steps = (simulated(requests, budget, exact_steps=exact) for exact in (False, True))
    assert ends_of(leaps).tolist() == ends_of(steps).tolist()
    assert first_and_last(leaps) == first_and_last(steps)
    assert leaps.counts == steps.counts
    assert leaps.counts["output_tokens"] == sum(output for _, _, output in requests)


SHARED_OUTPUTS = st.lists(
    st.tuples(st.integers(0, 200), st.integers(1, 90), st.integers(1, 60), st.integers(1, 2)),
    min_size=1,
    max_size=12,
).map(
    lambda rows: [
        (gap / 4, prompt, output, ((branch, prompt + output),))
        for gap, prompt, output, branch in sorted(rows)
    ]
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(SHARED_OUTPUTS, st.sampled_from((256, 4096)))
def test_runs_and_single_steps_agree_where_outputs_are_found_again(budget_of, requests, tokens):
    leaps, steps = (
        simulated(requests, budget_of(tokens=tokens), exact_steps=exact) for exact in (False, True)
    )
    assert ends_of(leaps).tolist() == ends_of(steps).tolist()
    assert first_and_last(leaps) == first_and_last(steps)
    assert leaps.counts == steps.counts


def test_a_block_of_generated_tokens_is_found_one_step_later(budget_of):
    from sim.sequence import Sequence

    path = ((1, 200),)
    found = {}
    for cls in (VllmScheduler, AsyncVllmScheduler):
        policy = Paged(budget_of(tokens=4096))
        scheduler = cls(policy, VllmScheduler.Options(max_seqs=2))
        writer = Sequence(0, Request(0, 0.0, 30, 60, path))
        reader = Sequence(1, Request(1, 0.0, 100, 10, path))
        scheduler.add(writer)
        found[cls] = []
        for _ in range(6):
            # The third step computes token 32, the last of the second block.
            scheduler.update(scheduler.schedule())
            found[cls].append(policy.lookup(reader))
    assert found[VllmScheduler] == [16, 16, 32, 32, 32, 32]
    assert found[AsyncVllmScheduler] == [16, 16, 16, 32, 32, 32]


def test_an_arrival_waits_for_the_step_after_the_one_that_is_decided(budget_of):
    # Steps: [0, 2] prefill of 8 tokens, [2, 3.125] a decode that was decided at 0.
    requests = [(0.0, 8, 8), (1.0, 8, 1)]
    times = {
        cls: first_and_last(simulated(requests, budget_of(tokens=4096), cls))[1][0]
        for cls in (VllmScheduler, AsyncVllmScheduler)
    }
    assert times[VllmScheduler] == 2.0 + 1 + 9 / 8
    assert times[AsyncVllmScheduler] == 2.0 + 9 / 8 + 1 + 9 / 8


def test_a_slot_is_free_one_step_after_its_sequence_ended(budget_of):
    requests = [(0.0, 8, 1)] * MAX_SEQS + [(0.0, 8, 1)]
    recorder = simulated(requests, budget_of(tokens=4096))
    # [0, 4] for the first three; nothing else runs, so what follows is decided at once.
    assert ends_of(recorder).tolist() == [4.0, 6.0]
    requests = [(0.0, 8, 1), (0.0, 8, 9), (0.0, 8, 9), (0.0, 8, 1)]
    recorder = simulated(requests, budget_of(tokens=4096))
    assert first_and_last(recorder)[3][0] == pytest.approx(4.0 + 1.25 + 2.25)


def test_a_request_can_be_dropped_before_the_scheduler_looks(budget_of):
    from sim.sequence import Sequence, Status

    policy = Paged(budget_of(tokens=4096))
    scheduler = AsyncVllmScheduler(policy, VllmScheduler.Options(max_seqs=2))
    running, late = (Sequence(i, Request(i, 0.0, 8, 4)) for i in range(2))
    scheduler.add(running)
    scheduler.update(scheduler.schedule())
    scheduler.add(late)
    assert late not in scheduler.waiting and scheduler.has_work
    scheduler.abort(late)
    assert late.status is Status.FAILED
    scheduler.update(scheduler.schedule())
    assert len(scheduler.waiting) == 0
