"""Every workload and every reader through every policy: nothing is lost, at any step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest

from sim.budget import Budget
from sim.checking import CheckedRun
from sim.metrics import request_columns
from sim.model_files.lookup import model_of
from sim.plugins import policy_of, scheduler_of
from sim.policies.base import Policy
from sim.registries import POLICIES
from sim.simulation import Simulation
from sim.timing.base import TimeModel
from workloads.errors import InputError
from workloads.request import Request, Traffic, Workload
from workloads.sessions import ClosedTraffic, OpenTraffic
from workloads.spec import WORKLOADS, workload_of
from workloads.statistics import statistics_of

FIXTURES = Path(__file__).parents[1] / "workloads" / "fixtures"
REQUESTS = 10
LARGEST = 80
"""Tokens that the longest sequence of a shrunk workload has, about."""


def specs() -> Iterator[str]:
    for name in WORKLOADS.names():
        found = sorted(FIXTURES.glob(f"{name}.*")) or sorted(FIXTURES.glob(name))
        yield f"{name}:{found[0]}" if found else name
    yield str(FIXTURES / "vidur-lengths.csv")
    yield str(FIXTURES / "mooncake-waiting.jsonl")
    yield "agent:fork=0.5,helpers=2,calls=4"
    yield "chat:arrivals=closed:clients=3"


@lru_cache(maxsize=64)
def sessions_of(spec: str) -> tuple[tuple[Request, ...], ...]:
    """The first requests of the workload, shrunk."""
    made = workload_of(spec, requests=REQUESTS)
    sessions = list(made.traffic().sessions())
    longest = max(each.prompt + each.output for session in sessions for each in session)
    factor = max(1, -(-longest // LARGEST))
    return tuple(tuple(shrunk(each, factor) for each in session) for session in sessions)


def shrunk(request: Request, factor: int) -> Request:
    """The request with one token for ``factor``; what was shared is shared."""
    prompt = -(-request.prompt // factor)
    total = max(prompt + 1, -(-(request.prompt + request.output) // factor))
    path: list[tuple[int, int]] | None = None
    if request.path is not None:
        path, before = [], 0
        for branch, end in request.path[:-1]:
            if (scaled := min(-(-end // factor), total - 1)) > before:
                path.append((branch, scaled))
                before = scaled
        path.append((request.path[-1][0], total))
    return Request(
        request.id, request.arrival, prompt, total - prompt, None if path is None else tuple(path),
        request.conversation, request.turn, min(request.samples, 3), min(request.beam_width, 3),
        request.priority, request.slo_class, request.after,
    )  # fmt: skip


class Shrunk(Workload):
    """The shrunk sessions, in as closed a loop as the original."""

    name = "shrunk"

    def __init__(self, spec: str) -> None:
        self.spec = spec

    def traffic(self) -> Traffic:
        clients = workload_of(self.spec, requests=REQUESTS).traffic().clients
        sessions = (list(map(copied, session)) for session in sessions_of(self.spec))
        return OpenTraffic(sessions) if clients is None else ClosedTraffic(sessions, clients)


def copied(request: Request) -> Request:
    return shrunk(request, 1)


class SlowTime(TimeModel):
    """A quarter of a second a step, so that requests meet."""

    name = "slow"
    sees_prefills = False

    @classmethod
    def of(cls, budget: Budget, hardware: str, path: str) -> SlowTime:
        return cls()

    def seconds(self, work: object) -> float:
        return 0.25

    def swap_seconds(self, n_bytes: int, to_host: bool) -> float:
        return 1.0


MODELS = {"recurrent": "mamba-2.8b", "hybrid": "lfm2-1.2b"}
"""Models with the state that a policy is about; gemma-3-1b, with windows, for all others."""


@lru_cache
def budget_of(policy: str) -> Budget:
    """Room for about three of the longest sequences, or for one where a policy needs more."""
    model = model_of(MODELS.get(policy, "gemma-3-1b"))
    size = 3 * LARGEST * model.token_bytes() + 6 * model.state_bytes
    while True:
        budget = Budget(model, bytes=size, max_seqs=6, max_model_len=512, max_batched_tokens=128)
        try:
            policy_of(policy, budget)
        except InputError:
            assert size < 1 << 30
            size *= 2
        else:
            return budget


def checked(policy: Policy, done: Callable[[], None]) -> Policy:
    """The policy, with its books balanced after every step that it commits."""
    commit = policy.commit

    def commit_and_check(step):  # type: ignore[no-untyped-def]
        placement = commit(step)
        policy.check_integrity()
        for part in policy.usage():
            assert part.live + part.reserved + part.internal + part.free == part.capacity
            assert min(part.live, part.reserved, part.internal, part.free) >= 0
        done()
        return placement

    policy.commit = commit_and_check  # type: ignore[method-assign]
    return policy


@pytest.mark.parametrize("name", POLICIES.names())
@pytest.mark.parametrize("spec", list(specs()), ids=lambda spec: Path(spec).name)
def test_nothing_is_lost(spec: str, name: str) -> None:
    """Cell by cell under the scheduler alone; then with time, forks, joins and closed loops."""
    budget = budget_of(name)
    requests = flat(sessions_of(spec))
    run = CheckedRun(policy_of(name, budget))
    run.serve(requests)
    assert len(run.finished) + len(run.failed) <= len(requests)

    steps: list[None] = []
    policy = checked(policy_of(name, budget), lambda: steps.append(None))
    scheduler = scheduler_of("vllm", policy, {})
    finished = Simulation(Shrunk(spec), policy, scheduler, SlowTime(), exact_steps=True).run()
    assert steps
    assert not list(policy.holders())
    assert all(part.free == part.capacity for part in policy.usage())
    seen = finished.recorder.rows.column("request")
    assert set(seen) == {each.id for each in requests}


def flat(sessions: Iterable[tuple[Request, ...]]) -> list[Request]:
    """The requests in the order of their sessions, one every other step."""
    made = [copied(request) for session in sessions for request in session]
    for number, request in enumerate(made):
        request.arrival = 2.0 * number
    return made


@pytest.mark.parametrize(
    "spec", ["chat:think=1,rate=0.001", "rag:rate=0.01", "agent:fork=0,rate=0.001"]
)
def test_paged_with_memory_for_all_hits_as_often_as_the_ideal_cache(spec: str) -> None:
    """One request at a time in unlimited memory: the statistics' rate in blocks of 16."""
    made = workload_of(spec, requests=60)
    model = model_of("llama-3.1-8b")
    budget = Budget(model, bytes=1 << 42, max_seqs=4, max_model_len=model.max_context)
    policy = policy_of("paged", budget)
    run = Simulation(made, policy, scheduler_of("vllm", policy, {}), SlowTime()).run()
    columns = request_columns(run.recorder)
    hits, prompts = columns["prefix_hit_tokens"], columns["prompt"]
    statistics = statistics_of(made)
    assert statistics.hit_rates(16)[0] > 0.3
    assert statistics.hit_rates(16) == (hits.sum() / prompts.sum(), np.mean(hits / prompts))
