"""Clusters against times worked out by hand, single engines, and their own single steps."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_up_clocks import CrookedTime, FlatTime
from step_ends import ends_of

from sim.cluster.disaggregated import prompt_bytes
from sim.cluster.simulation import ClusterSimulation, FinishedCluster, Parts, Plan
from sim.metrics import Objectives, request_columns, summary_of, timeline_columns
from sim.plugins import policy_of, scheduler_of
from sim.simulation import Simulation
from sim.step_times import StepTimes
from workloads.errors import InputError
from workloads.request import Request, Traffic, Workload

OBJECTIVES = {"default": Objectives()}


@dataclass
class Listed(Workload):
    """Requests as given: fields of `Request` after the id; the last ones follow the first."""

    requests: list[dict[str, Any]]
    following: int = 0
    name = "listed"

    def traffic(self):
        return ListedTraffic(
            [Request(i, **given) for i, given in enumerate(self.requests)], self.following
        )


class ListedTraffic(Traffic):
    def __init__(self, requests, following):
        split = len(requests) - following
        self._first, self._later = requests[:split], requests[split:]

    def arrivals(self) -> Iterator[Request]:
        return iter(self._first)

    def completed(self, request, at):
        if not self._later:
            return []
        follower = self._later.pop(0)
        follower.arrival = at
        return [follower]


def listed(*given: tuple[float, int, int]) -> Listed:
    return Listed([{"arrival": t, "prompt": p, "output": o} for t, p, o in given])


class EvenTime(FlatTime):
    """All steps take the same time, so that replicas end theirs at the same instants."""

    def seconds(self, work):
        return 0.25 + 0.0 * work.decode_context


def simulate(
    workload,
    budget,
    plan,
    policy="contiguous",
    model=None,
    options=None,
    scheduler="vllm",
    **simulation,
) -> FinishedCluster:
    def make(env) -> Parts:
        fresh = policy_of(policy, budget, options)
        return Parts(fresh, scheduler_of(scheduler, fresh), model or FlatTime())

    return ClusterSimulation(workload, make, plan, **simulation).run()


def by_request(run: FinishedCluster, column: str) -> list[float]:
    columns = request_columns(run.recorder) | run.columns
    order = np.argsort(columns["request"], kind="stable")
    return np.asarray(columns[column])[order].tolist()


def test_two_replicas_by_hand(budget_of) -> None:
    # A prefill of n tokens alone takes 1 + n/8 s, a decode step of b sequences 1 + b/8 s.
    work = listed((0.0, 8, 3), (0.0, 16, 2), (1.0, 8, 2))
    run = simulate(work, budget_of(), Plan(replicas=2))
    assert by_request(run, "replica") == [0, 1, 0]
    # Replica 0: request 0 alone until 2; then its decode with the prefill of request 2, 9 tokens:
    # until 4.125; then both decode: until 5.375, where both end.
    # Replica 1: request 1, prefill until 3, one decode until 4.125.
    assert by_request(run, "finish_s") == [5.375, 4.125, 5.375]
    assert by_request(run, "ttft_s") == [2.0, 3.0, 3.125]
    assert by_request(run, "queue_s") == [0.0, 0.0, 1.0]
    assert by_request(run, "itl_max_s") == [2.125, 1.125, 1.25]
    summary = summary_of(run.recorder, request_columns(run.recorder), OBJECTIVES)
    assert (summary["steps"], summary["output_tokens"], summary["makespan_s"]) == (5, 7, 5.375)
    # Busy for 5.375 and 4.125 s.
    busy = [replica["busy_share"] for replica in run.summary["replicas"]]
    assert busy == [1.0, pytest.approx(4.125 / 5.375)]
    assert run.summary["imbalance"] == {"serving": pytest.approx(2 * 5.375 / 9.5)}
    assert [each["requests"] for each in run.summary["replicas"]] == [2, 1]


def test_least_loaded_by_hand(budget_of) -> None:
    work = listed((0.0, 100, 2), (0.0, 8, 2), (0.0, 8, 2), (10.0, 8, 2))
    run = simulate(work, budget_of(), Plan(replicas=2, router="least-loaded"))
    # 102 tokens on replica 0; 10 and then 20 on replica 1. At 10 s replica 1 has nothing to do:
    # 1 + 16/8 and 1 + 2/8 s; replica 0 is in its prefill of 13.5 s.
    assert by_request(run, "replica") == [0, 1, 1, 1]
    assert by_request(run, "finish_s") == [14.625, 4.25, 4.25, 13.125]


def test_disaggregation_by_hand(budget_of) -> None:
    budget = budget_of()
    size = prompt_bytes(budget, 8)
    assert size == 8 * budget.model.token_bytes()
    plan = Plan(replicas=1, prefill=1, link_bandwidth=float(size))
    run = simulate(listed((0.0, 8, 3), (0.5, 8, 2)), budget, plan)
    # Prefill replica: request 0 until 2, request 1 from 2 to 4.
    # Link: 8 tokens a second alone: request 0 from 2 to 3, request 1 from 4 to 5.
    # Decode replica: request 0 from 3 to 4.125 and to 5.25; request 1 is there at 5 and decodes
    # from 5.25 to 6.375.
    assert by_request(run, "ttft_s") == [2.0, 3.5]
    assert by_request(run, "finish_s") == [5.25, 6.375]
    # From the end of the prompt to the end of the first decode step.
    assert by_request(run, "itl_max_s") == [2.125, 2.375]
    assert by_request(run, "tpot_s") == [(5.25 - 2.0) / 2, 2.375]
    assert by_request(run, "queue_s") == [0.0, 1.5]
    assert by_request(run, "output") == [3, 2]
    assert by_request(run, "prefill_replica") == [0, 0]
    assert by_request(run, "replica") == [1, 1]
    assert run.summary["link"] == {"bytes": 2 * size, "busy_share": pytest.approx(2 / 6.375)}
    assert [each["role"] for each in run.summary["replicas"]] == ["prefill", "decode"]


def test_transfers_share_the_link(budget_of) -> None:
    budget = budget_of()
    plan = Plan(replicas=1, prefill=2, link_bandwidth=float(prompt_bytes(budget, 8)))
    run = simulate(listed((0.0, 8, 2), (0.0, 16, 2)), budget, plan)
    # The prompts are done at 2 and at 3. Alone from 2 to 3, the first transfer (8 tokens) ends
    # when the second begins, which takes until 5.
    assert by_request(run, "finish_s") == [4.125, 6.125]
    run = simulate(listed((0.0, 16, 2), (0.0, 8, 2), (0.0, 8, 1)), budget, plan)
    # Replica 1 has the requests 1 (done at 2), replica 0 the requests 0 and 2 (24 tokens in one
    # step, done at 4). Request 2 wants one token and is done with its prompt.
    # Link: request 1 from 2 to 3, request 0 from 4 to 6.
    assert by_request(run, "finish_s") == [7.125, 4.125, 4.0]
    assert by_request(run, "replica") == [2, 2, 0]
    late = replace(plan, link_bandwidth=plan.link_bandwidth / 2)
    run = simulate(listed((0.0, 16, 2), (0.0, 8, 2)), budget, late)
    # Half the speed: request 1 alone from 2 to 3 (4 of its 8 tokens), then two share: it ends at
    # 5; of request 0's 16 tokens 4 are there at 5, the other 12 at 4 a second: 8.
    assert by_request(run, "finish_s") == [9.125, 6.125]


def test_a_prompt_that_waits_for_room_at_the_decode_replica(budget_of) -> None:
    budget = budget_of(tokens=64)
    plan = Plan(replicas=1, prefill=2, link_bandwidth=1e12)
    work = listed((0.0, 40, 8), (0.0, 40, 8))
    run = simulate(work, budget, plan, policy="contiguous", options={"reserve": "exact"})
    assert [round(end, 3) for end in by_request(run, "finish_s")] == [
        # Both prompts are done at 6. One decodes 7 steps of 1.125 s, then the other.
        6 + 7 * 1.125,
        6 + 14 * 1.125,
    ]


def test_requests_that_can_never_fit_fail_once(budget_of) -> None:
    plan = Plan(replicas=1, prefill=1)
    run = simulate(listed((0.0, 300, 200), (0.0, 500, 3), (0.0, 8, 2)), budget_of(), plan)
    columns = request_columns(run.recorder)
    rows = sorted(zip(columns["request"], columns["status"], columns["output"], strict=True))
    # The first fits before it decodes; so it fails when it is handed over.
    assert rows == [(0, "failed", 200), (1, "failed", 3), (2, "finished", 2)]


def test_several_samples_are_not_split(budget_of) -> None:
    plan = Plan(replicas=1, prefill=1)
    work = Listed([{"arrival": 0.0, "prompt": 8, "output": 3, "samples": 2}])
    run = simulate(work, budget_of(), plan, policy="paged", options={"block_size": 4})
    columns = request_columns(run.recorder)
    assert columns["sample"].tolist() == [0, 1]
    assert run.columns["prefill_replica"].tolist() == [1, 1]
    assert run.recorder.counts["output_tokens"] == 6


def test_only_what_takes_over(budget_of) -> None:
    with pytest.raises(InputError, match="'llama-server' takes over no prompts"):
        simulate(listed((0, 8, 2)), budget_of(), Plan(prefill=1), "ring", scheduler="llama-server")


def test_bytes_of_a_prompt(budget_of) -> None:
    full, windowed, chunked = (budget_of(kind) for kind in ("full", "windowed", "chunked"))
    layer = full.model.token_bytes() // 2
    assert prompt_bytes(full, 100) == 2 * 100 * layer
    # A window of 40 tokens and chunks of 32; of 100 tokens 4 are in a chunk that is not complete.
    assert prompt_bytes(windowed, 100) == (100 + 39) * layer
    assert prompt_bytes(chunked, 100) == (100 + 4) * layer
    assert prompt_bytes(replace(full, devices=4), 100) == 4 * 2 * 100 * layer


def everything(recorder) -> dict[str, Any]:
    columns = request_columns(recorder)
    return {
        "columns": columns,
        "summary": summary_of(recorder, columns, OBJECTIVES),
        "timeline": timeline_columns(recorder),
        "ends": ends_of(recorder),
        "gaps": [list(part) for gaps in StepTimes(recorder.log).gaps() for part in gaps],
    }


def same(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
    return a == b or (a != a and b != b)


SOME = st.lists(
    st.tuples(st.integers(0, 40), st.integers(1, 60), st.integers(1, 40)), min_size=1, max_size=14
)


def made_up(given: list[tuple[int, int, int]], following: int, spacing: float) -> Listed:
    requests, now = [], 0.0
    for i, (gap, prompt, output) in enumerate(given):
        now += gap * spacing
        path = ((i % 3, min(24, prompt + output)),)
        if prompt + output > 24:
            path += ((100 + i, prompt + output),)
        requests.append(
            {
                "arrival": now,
                "prompt": prompt,
                "output": output,
                "path": path,
                "conversation": i % 4,
            }
        )
    return Listed(requests, min(following, len(requests) - 1))


@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(SOME, st.integers(0, 6))
def test_one_replica_is_no_cluster(budget_of, given, following) -> None:
    work, budget = made_up(given, following, 0.003), budget_of(tokens=256)
    policy = policy_of("paged", budget, {"block_size": 4})
    alone = Simulation(work, policy, scheduler_of("vllm", policy), CrookedTime()).run().recorder
    run = simulate(work, budget, Plan(), "paged", CrookedTime(), {"block_size": 4})
    assert same(everything(alone), everything(run.recorder))
    assert set(run.columns["replica"].tolist()) == {0}


PLANS = [
    Plan(replicas=3),
    Plan(replicas=2, router="least-loaded"),
    Plan(replicas=3, router="power-of-two", seed=3),
    Plan(replicas=2, router="prefix-aware", router_options={"imbalance": 1}),
    Plan(replicas=2, router="session-sticky"),
    Plan(replicas=2, prefill=2, router="least-loaded", link_bandwidth=3e7, link_latency=1e-4),
]


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: f"{plan.router}-{plan.prefill}")
@pytest.mark.parametrize("model", [CrookedTime(), EvenTime()], ids=["crooked", "even"])
@settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck))
@given(given=SOME, following=st.integers(0, 6))
def test_runs_of_steps_give_the_same_bits_as_single_steps(
    budget_of, plan, model, given, following
) -> None:
    work = made_up(given, following, 0.25 if isinstance(model, EvenTime) else 0.003)
    runs = [
        simulate(
            work,
            budget_of(tokens=256),
            plan,
            "paged",
            model,
            {"block_size": 4},
            exact_steps=exact,
            with_maps=True,
        )
        for exact in (False, True)
    ]
    assert same(everything(runs[0].recorder), everything(runs[1].recorder))
    assert same(runs[0].columns, runs[1].columns)
    assert runs[0].summary == runs[1].summary
    # Conservation: every request once, every token once.
    columns = request_columns(runs[0].recorder)
    assert sorted(columns["request"].tolist()) == list(range(len(given)))
    assert runs[0].recorder.counts["output_tokens"] == sum(output for _, _, output in given)
    assert sum(map(len, runs[0].recorder.stretches)) >= len(given)


def test_runs_are_long_where_nothing_happens(budget_of) -> None:
    """Replicas that decode side by side do not cut each other's runs of steps."""
    work = listed((0.0, 8, 300), (0.0, 8, 310), (0.0, 8, 320))
    calls = 0

    class Counting(CrookedTime):
        def seconds(self, work):
            nonlocal calls
            calls += 1
            return super().seconds(work)

    run = simulate(work, budget_of(tokens=1200), Plan(replicas=3), model=Counting())
    assert run.recorder.counts["steps"] == 930
    # Every replica looks at its cache each 64th of a second of the 0.33 that this takes.
    assert calls < 3 * (22 + 8)
