"""Numbers that describe a workload, against plain references and published figures."""

import os
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workloads.arrivals import AtOnce, ClosedLoop, ConstantRate
from workloads.lengths import Constant
from workloads.nominal import served
from workloads.prefix import PrefixTree, branch_at
from workloads.request import PrefixPath, Request, Session, Traffic, Workload
from workloads.sessions import OpenTraffic, numbered, started
from workloads.sharing import SharingCounter
from workloads.statistics import statistics_of
from workloads.synthetic.agent import Agent
from workloads.synthetic.chat import Chat
from workloads.synthetic.few_shot import FewShot
from workloads.synthetic.rag import Rag
from workloads.synthetic.sharegpt import ShareGPT
from workloads.traces.base import Stream
from workloads.traces.mooncake import Mooncake

SHARED = Path(os.environ.get("KVLAB_SHARED", Path(__file__).parents[3] / "shared")) / "data"


@dataclass
class Given(Workload):
    requests: list[Request]
    name = "given"

    def traffic(self) -> Traffic:
        return Stream(iter(self.requests))


def counted(requests: list[Request]) -> SharingCounter:
    counter = SharingCounter()
    for request in requests:
        counter.see(request)
    return counter


def identities(path: PrefixPath, length: int) -> list[tuple[int, int]]:
    """One for each token, the shortest prefix first."""
    return [(branch_at(path, i), i) for i in range(1, length + 1)]


@st.composite
def request_lists(draw: st.DrawFn) -> list[Request]:
    """Requests whose tokens come from few, so that prefixes meet in every way."""
    tree = PrefixTree()
    requests = []
    for number in range(draw(st.integers(1, 12))):
        tokens = draw(st.lists(st.integers(0, 2), min_size=2, max_size=9))
        prompt = draw(st.integers(1, len(tokens) - 1))
        path = draw(st.sampled_from([None, True, True, True])) and tree.path(tokens)
        requests.append(Request(number, float(number), prompt, len(tokens) - prompt, path))
    return requests


@settings(max_examples=80, deadline=None)
@given(request_lists())
def test_sharing_token_by_token(requests: list[Request]) -> None:
    """A set of all prefixes that were ever computed says what an unlimited cache has."""
    cached: set[tuple[int, int]] = set()
    hits = []
    for each in requests:
        prompt = identities(each.path, each.prompt) if each.path else []
        hits.append(next((i for i, one in enumerate(prompt) if one not in cached), len(prompt)))
        kept = each.prompt + each.output - 1
        cached.update(identities(each.path, kept) if each.path else [])
    prompts = [identities(each.path, each.prompt) if each.path else [] for each in requests]
    users = Counter(one for prompt in prompts for one in prompt)
    result = counted(requests).result()
    assert result.hits.tolist() == hits
    assert result.shared == sum(count for count in users.values() if count > 1)
    private = sum(each.prompt for each in requests if each.path is None)
    assert result.distinct == len(users) + private
    assert result.groups == sum(count > 1 for (_, i), count in users.items() if i == 1)
    assert result.reused.sum() == sum(hits)


@settings(max_examples=80, deadline=None)
@given(request_lists())
def test_depth_counts_branchings(requests: list[Request]) -> None:
    """Along a prompt, the number of other prompts that are still with it falls so many times."""
    prompts = [identities(each.path, each.prompt) if each.path else [] for each in requests]
    users = Counter(one for prompt in prompts for one in prompt)

    def branchings(each: Request) -> int:
        """Changes between the branches of its path, as far as somebody shares them."""
        ends = [min(end, each.prompt) for _, end in each.path or ()]
        starts = [0, *ends][: len(ends)]
        firsts = [users[identities(each.path or (), each.prompt)[start]]
                  for start, end in zip(starts, ends, strict=True) if end > start]  # fmt: skip
        shared = [count for count in firsts if count > 1]
        return bool(shared) + sum(a != b for a, b in pairwise(shared))

    result = counted(requests).result()
    assert result.depth == max(map(branchings, requests))


@settings(max_examples=80, deadline=None)
@given(request_lists())
def test_distances_against_a_list(requests: list[Request]) -> None:
    """A list in order of use: what is asked for needs all that stands before it, and itself."""
    used: list[tuple[object, int]] = []
    ends: dict[int, int] = {}
    distances = []
    for each in requests:
        kept = each.prompt + each.output - 1
        if each.path is None:
            used.insert(0, (None, kept))
            continue
        hit, touched, before = 0, [], 0
        hitting = True
        for branch, end in each.path:
            reach = min(end, ends.get(branch, 0), each.prompt)
            hitting = hitting and branch in ends and reach > hit
            if hitting:
                place = next(i for i, (name, _) in enumerate(used) if name == branch)
                distances.append(sum(size for _, size in used[: place + 1]))
                hit = reach
                hitting = reach == end
            touched.append((branch, before, end))
            before = end
        for branch, start, end in reversed(touched):
            ends[branch] = max(ends.get(branch, start), min(end, kept))
            used = [one for one in used if one[0] != branch]
            used.insert(0, (branch, ends[branch] - start))
    assert counted(requests).result().distances.tolist() == distances


def test_long_streams_are_compacted() -> None:
    """The same reuse whatever lies between: far more single requests than the tree first holds."""
    path = ((0, 100),)
    counter = SharingCounter()
    counter.see(Request(0, 0.0, 100, 1, (*path, (1, 101))))
    for number in range(5000):
        counter.see(Request(number + 1, 0.0, 6, 5))
        if number % 1000 == 999:
            counter.see(Request(number + 1, 0.0, 100, 1, (*path, (number + 2, 101))))
    result = counter.result()
    assert result.reused.tolist() == [100] * 5
    assert result.distances.tolist() == [100 + 1000 * 10] * 5


def test_published_figures_of_mooncake() -> None:
    """FAST'25, conversation trace, unlimited cache: 0.374 of tokens, 0.409 by request."""
    file = SHARED / "mooncake_fast25/conversation_trace.jsonl"
    if not file.exists():
        pytest.skip(f"needs {file.name} in {SHARED}")
    tokens, requests = statistics_of(Mooncake(str(file))).hit_rates()
    assert round(tokens, 3) == 0.374
    assert round(requests, 3) == 0.409


def test_hit_rates_in_blocks() -> None:
    """Prompts of 20 and 33 tokens after one of 40; the last token is computed in any case."""
    path = ((0, 40),)
    requests = [
        Request(0, 0.0, 40, 1, (*path, (1, 41))),
        Request(1, 1.0, 20, 1, ((0, 20), (2, 21))),
        Request(2, 2.0, 33, 1, ((0, 33), (3, 34))),
    ]
    statistics = statistics_of(Given(requests))
    assert statistics.hit_rates() == (53 / 93, 2 / 3)
    assert statistics.hit_rates(16) == (48 / 93, (16 / 20 + 32 / 33) / 3)
    assert statistics.hit_rates(20) == (20 / 93, (0 + 20 / 33) / 3)
    sizes, rates = statistics.reuse_curve()
    # 40 tokens and no output that was computed; the one in between has nothing of its own.
    assert sizes.tolist() == [40, 40]
    assert rates.tolist() == pytest.approx([20 / 93, 53 / 93])


def test_prefix_sharing_as_stated() -> None:
    """Generators: groups and depth are what the generator was asked for."""
    few = statistics_of(FewShot(requests=400, tasks=3)).summary()["prefix"]
    assert (few["groups"], few["depth"]) == (3, 1)
    assert few["shared_prompt_tokens"] == pytest.approx(341 / (341 + 35), rel=0.03)
    rag = Rag(requests=400, documents=4, retrieved=2, document=Constant(500), system=100)
    assert statistics_of(rag).summary()["prefix"]["depth"] == 3
    chat = statistics_of(Chat(requests=400)).summary()["prefix"]
    assert (chat["groups"], chat["depth"]) == (1, 2)
    alone = statistics_of(ShareGPT(requests=400)).summary()
    assert alone["prefix"]["groups"] == alone["prefix"]["depth"] == 0
    assert alone["reuse"]["lru_tokens_for_share_of_ideal"] is None


def test_the_curve_ends_at_the_ideal_rate() -> None:
    for workload in (Chat(requests=300), Agent(requests=300), Rag(requests=300)):
        statistics = statistics_of(workload)
        sizes, rates = statistics.reuse_curve()
        assert (np.diff(sizes) >= 0).all()
        assert rates[-1] == pytest.approx(statistics.hit_rates()[0])


# Time without an engine.


@dataclass
class Loop(Workload):
    sessions: list[Session]
    name = "loop"

    def traffic(self) -> Traffic:
        return OpenTraffic(started(numbered(iter(self.sessions), 100), iter([0.0, 5.0, 5.0])))


def test_nominal_times_by_hand() -> None:
    """0.5 s a token: a fork of two after 2 s, which join after 1 + 5 s; somebody else at 5."""
    fork = [
        Request(0, 0.0, 9, 4), Request(0, 1.0, 9, 10, after=(0,)),
        Request(0, 0.0, 9, 2, after=(0,)), Request(0, 0.5, 9, 2, after=(1, 2)),
    ]  # fmt: skip
    workload = Loop([fork, [Request(0, 0.0, 9, 6)], [Request(0, 0.0, 9, 8)]])
    seen = list(served(workload.traffic(), 0.5))
    assert [(each.request.id, each.start, each.end) for each in seen] == [
        (0, 0.0, 2.0), (2, 2.0, 3.0), (1, 3.0, 8.0), (4, 5.0, 8.0), (5, 5.0, 9.0), (3, 8.5, 9.5),
    ]  # fmt: skip


def test_concurrency_by_hand() -> None:
    requests = [Request(n, at, 1, 10) for n, at in enumerate([0.0, 0.5, 1.0, 9.0])]
    statistics = statistics_of(Given(requests), 0.1)
    times, running = statistics.concurrency
    assert times.tolist() == [0.0, 0.5, 1.0, 1.0, 1.5, 2.0, 9.0, 10.0]
    assert running.tolist() == [1, 2, 1, 2, 1, 0, 1, 0]
    summary = statistics.summary()
    assert summary["concurrency"]["most"] == 2
    assert summary["concurrency"]["mean"] == pytest.approx(4 / 10)
    assert summary["arrivals"]["most_in_10_s"] == 4
    assert summary["arrivals"]["nominal"] is False
    assert summary["arrivals"]["requests_per_s"] == pytest.approx(3 / 9)


def test_clients_are_the_most_under_way() -> None:
    statistics = statistics_of(ShareGPT(requests=300, arrivals=ClosedLoop(7)))
    summary = statistics.summary()
    assert summary["clients"] == summary["concurrency"]["most"] == 7
    assert summary["arrivals"]["nominal"] is True


def test_workloads_at_one_instant() -> None:
    summary = statistics_of(ShareGPT(requests=3, arrivals=AtOnce()), 0.0).summary()
    assert summary["arrivals"]["requests_per_s"] is None
    assert summary["concurrency"]["mean"] is None


def test_lengths_and_rates() -> None:
    workload = ShareGPT(requests=101, arrivals=ConstantRate(4.0))
    summary = statistics_of(workload).summary()
    prompts = sorted(each.prompt for each in workload.traffic().arrivals())
    assert summary["prompt_tokens"]["total"] == sum(prompts)
    assert summary["prompt_tokens"]["p50"] == prompts[50]
    assert summary["prompt_tokens"]["max"] == prompts[-1]
    assert summary["arrivals"]["requests_per_s"] == pytest.approx(4.0)
    assert summary["arrivals"]["gap_cv"] == pytest.approx(0.0, abs=1e-9)
    assert summary["arrivals"]["most_in_10_s"] == 40
