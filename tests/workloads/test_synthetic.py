"""Generators: what they promise about contents, sharing, order and memory."""

import heapq
import tracemalloc
from collections import Counter
from collections.abc import Callable
from dataclasses import astuple, replace
from itertools import combinations, pairwise

import numpy as np
import pytest

from workloads.arrivals import ClosedLoop, ConstantRate, Gamma
from workloads.errors import InputError
from workloads.lengths import Constant, Lognormal, Uniform
from workloads.prefix import branch_at, check_path, common_prefix
from workloads.request import Request, Traffic, Workload
from workloads.synthetic.agent import Agent
from workloads.synthetic.alpaca import Alpaca
from workloads.synthetic.base import Online, Synthetic
from workloads.synthetic.batch import Batch
from workloads.synthetic.beam_search import BeamSearch
from workloads.synthetic.chat import Chat
from workloads.synthetic.client_mix import ClientMix
from workloads.synthetic.code import Code
from workloads.synthetic.few_shot import FewShot
from workloads.synthetic.long_context import LongContext
from workloads.synthetic.multi_tenant import MultiTenant
from workloads.synthetic.parallel_sampling import ParallelSampling
from workloads.synthetic.rag import Rag
from workloads.synthetic.sharegpt import ShareGPT

Service = Callable[[Request], float]

ALL = [
    Chat(), ShareGPT(), Alpaca(), LongContext(), LongContext(documents=3), Batch(), Agent(),
    Agent(fork=0.5, system=0), Rag(), Rag(retrieved=3, documents=5, system=0), FewShot(),
    FewShot(tasks=4, zipf=1.0), Code(), Code(kept=0.0, system=0), ParallelSampling(), BeamSearch(),
    ClientMix(), ClientMix(prefix=100), MultiTenant(),
]  # fmt: skip


def served(traffic: Traffic, service: Service = lambda request: 1.0) -> list[Request]:
    """All requests in order of arrival, from an engine with room for everybody."""
    coming = traffic.arrivals()
    following = next(coming, None)
    ends: list[tuple[float, int, Request]] = []
    seen = []
    while following or ends:
        if following and (not ends or following.arrival <= ends[0][0]):
            released: list[Request] = [following]
            following = next(coming, None)
        else:
            at, _, ended = heapq.heappop(ends)
            released = list(traffic.completed(ended, at))
            assert all(request.arrival >= at for request in released)
        for request in released:
            seen.append(request)
            heapq.heappush(ends, (request.arrival + service(request), request.id, request))
    return seen


def contents(requests: list[Request]) -> dict[int, tuple[object, ...]]:
    return {each.id: astuple(replace(each, arrival=0.0)) for each in requests}


@pytest.mark.parametrize("workload", ALL, ids=lambda each: each.name)
def test_every_generator_keeps_the_rules_of_a_request(workload: Synthetic) -> None:
    requests = served(replace(workload, requests=3000).traffic())
    assert sorted(each.id for each in requests) == list(range(3000))
    for each in requests:
        assert each.prompt >= 1
        assert each.output >= 1
        assert type(each.prompt) is type(each.output) is int
        assert type(each.arrival) is float
        if each.path is not None:
            check_path(each.path, each.prompt + each.output)
    first = [each.arrival for each in replace(workload, requests=3000).traffic().arrivals()]
    assert first == sorted(first)


@pytest.mark.parametrize("workload", ALL, ids=lambda each: each.name)
def test_same_seed_same_requests(workload: Synthetic) -> None:
    assert served(workload.traffic()) == served(workload.traffic())
    assert served(workload.traffic()) != served(replace(workload, seed=1).traffic())


@pytest.mark.parametrize("workload", ALL, ids=lambda each: each.name)
def test_fewer_requests_are_the_front_of_more(workload: Synthetic) -> None:
    few = contents(served(replace(workload, requests=100).traffic()))
    many = contents(served(replace(workload, requests=2500).traffic()))
    assert few == {number: many[number] for number in range(100)}


@pytest.mark.parametrize("clients", [None, 1, 20])
def test_chat_contents_do_not_depend_on_the_engine(clients: int | None) -> None:
    chat = Chat(requests=2000, rate=None if clients else 5.0)
    if clients:
        chat = replace(chat, arrivals=ClosedLoop(clients))
    rng = np.random.default_rng(0)
    quick = served(chat.traffic(), lambda request: 0.01)
    slow = served(chat.traffic(), lambda request: float(rng.exponential(60)))
    assert contents(quick) == contents(slow)
    assert [each.id for each in quick] != [each.id for each in slow] or clients == 1
    assert [each.arrival for each in quick] != [each.arrival for each in slow]


@pytest.mark.parametrize("system", [0, 100])
def test_chat_turns_cover_all_that_came_before(system: int) -> None:
    requests = served(Chat(requests=2000, system=system, max_context=4096).traffic())
    conversations: dict[int, list[Request]] = {}
    for each in requests:
        assert each.conversation is not None
        conversations.setdefault(each.conversation, []).append(each)
        assert each.prompt + each.output <= 4096
    assert max(map(len, conversations.values())) > 3
    for turns in conversations.values():
        assert [each.turn for each in turns] == list(range(len(turns)))
        assert turns[0].prompt > system
        for before, after in pairwise(turns):
            covered = before.prompt + before.output
            assert before.path
            assert after.path
            assert common_prefix(before.path, after.path) == covered < after.prompt
            assert after.arrival > before.arrival
    one, other = (turns[-1].path for turns in list(conversations.values())[:2])
    assert one
    assert other
    assert common_prefix(one, other) == system
    assert branch_at(one, system + 1) != branch_at(other, system + 1)


def test_chat_by_hand() -> None:
    """Constant lengths: 50 system tokens, 10 in and 20 out a turn, full at 150 tokens."""
    chat = Chat(
        requests=12, system=50, user=Constant(10), output=Constant(20), turns=500.0, think=0.0,
        max_context=150, arrivals=ConstantRate(0.01),
    )  # fmt: skip
    requests = served(chat.traffic(), lambda request: 2.0)
    assert [(each.conversation, each.turn, each.prompt) for each in requests] == [
        (conversation, turn, 60 + 30 * turn) for conversation in range(4) for turn in range(3)
    ]
    assert [each.arrival for each in requests[:4]] == [0.0, 2.0, 4.0, 100.0]
    assert requests[4].path == ((0, 50), (2, 110))


def test_chat_draws_what_it_says() -> None:
    chat = Chat(requests=60_000, turns=3.0, think=4.0, max_context=1_000_000, system=10)
    requests = sorted(served(chat.traffic(), lambda request: 0.0), key=lambda each: each.id)
    turns = np.array([each.turn for each in requests])
    assert len(turns) / (turns == 0).sum() == pytest.approx(3.0, rel=0.02)
    assert np.mean([each.output for each in requests]) == pytest.approx(215, rel=0.02)
    users = [each.prompt - 10 for each in requests if each.turn == 0]
    assert np.mean(users) == pytest.approx(70, rel=0.03)
    pauses = [after.arrival - before.arrival for before, after in pairwise(requests) if after.turn]
    assert np.mean(pauses) == pytest.approx(4.0, rel=0.02)


@pytest.mark.parametrize(
    "workload",
    [Chat(), Chat(max_context=2500), ShareGPT(), Alpaca(), Agent(calls=4.0, fork=0.1), Code()],
    ids=lambda each: each.name,
)
def test_rate_counts_requests_a_second(workload: Online) -> None:
    requests = served(replace(workload, requests=40_000, rate=20.0).traffic())
    middle = [each.arrival for each in requests[10_000:30_000]]
    assert 20_000 / (middle[-1] - middle[0]) == pytest.approx(20.0, rel=0.06)


def test_closed_loop_keeps_every_client_busy() -> None:
    workload = ShareGPT(requests=500, arrivals=ClosedLoop(7))
    requests = served(workload.traffic(), lambda request: 1.0)
    assert [each.arrival for each in requests] == [float(n // 7) for n in range(500)]


def test_batch_is_there_at_once() -> None:
    assert {each.arrival for each in Batch(requests=2000).traffic().arrivals()} == {0.0}


@pytest.mark.parametrize(
    ("workload", "prompt", "output"),
    [(ShareGPT(), 161.31, 337.99), (Alpaca(), 19.31, 58.45), (Batch(), 161.31, 337.99)],
)
def test_published_means(workload: Synthetic, prompt: float, output: float) -> None:
    requests = list(replace(workload, requests=200_000, seed=3).traffic().arrivals())
    assert np.mean([each.prompt for each in requests]) == pytest.approx(prompt, rel=0.01)
    assert np.mean([each.output for each in requests]) == pytest.approx(output, rel=0.01)


def test_long_context_shares_documents() -> None:
    workload = LongContext(requests=400, documents=5, document=Uniform(1000, 2000))
    requests = list(workload.traffic().arrivals())
    paths = [each.path for each in requests]
    assert all(paths)
    by_document: dict[int, int] = {}
    for path in paths:
        assert path
        branch, end = path[0]
        assert by_document.setdefault(branch, end) == end
    assert len(by_document) == 5
    a, b = (next(p for p in paths if p and p[0][0] == branch) for branch in (0, 1))
    assert a
    assert b
    assert common_prefix(a, b) == 0
    same = [p for p in paths if p and p[0][0] == 0]
    assert common_prefix(same[0], same[1]) == by_document[0]


def test_calls_of_an_agent_cover_all_that_came_before() -> None:
    agent = Agent(requests=600, fork=0.2, system=500, max_context=20_000)
    requests = served(agent.traffic())
    lines: dict[int, list[Request]] = {}
    for each in requests:
        assert each.conversation is not None
        assert each.prompt + each.output <= 20_000
        lines.setdefault(each.conversation, []).append(each)
    assert max(map(len, lines.values())) > 10
    for calls in lines.values():
        assert [each.turn for each in calls] == list(range(len(calls)))
        for before, after in pairwise(calls):
            assert before.path
            assert after.path
            covered = before.prompt + before.output
            assert common_prefix(before.path, after.path) == covered
            assert after.prompt > covered
            assert after.arrival >= before.arrival + 1.0


def test_helpers_share_their_agents_context_and_are_waited_for() -> None:
    agent = Agent(requests=400, fork=0.3, helpers=3, tool=2.0)
    requests = {each.id: each for each in served(agent.traffic(), lambda each: each.output / 10)}
    ends = {number: each.arrival + each.output / 10 for number, each in requests.items()}
    joins = [each for each in requests.values() if len(each.after) > 1]
    assert joins
    for join in joins:
        assert join.arrival >= max(ends[number] for number in join.after)
        assert len(join.after) == 3
        lines = {requests[number].conversation for number in join.after}
        for line in lines:
            first = min(
                (each for each in requests.values() if each.conversation == line),
                key=lambda each: each.id,
            )
            (parent,) = (requests[number] for number in first.after)
            assert parent.conversation == join.conversation
            assert first.path
            assert parent.path
            assert common_prefix(first.path, parent.path) == parent.prompt + parent.output
            assert first.arrival == ends[parent.id]
            # The answers of the helpers, and nothing else, come to the agent's context.
            assert join.path
            assert common_prefix(join.path, first.path) == parent.prompt + parent.output
        answers = sum(requests[number].output for number in join.after)
        assert join.prompt == parent.prompt + parent.output + answers


def test_an_agent_has_as_many_calls_as_it_says() -> None:
    alone = Agent(fork=0.0, calls=6.0, max_context=10**9, requests=20_000)
    assert alone.requests_per_session() == pytest.approx(6.0, rel=0.1)
    starts = sum(1 for _ in alone.traffic().sessions())
    assert 20_000 / starts == pytest.approx(6.0, rel=0.05)
    helped = replace(alone, fork=0.5, helpers=2, helper_calls=3.0)
    # Every call but those that the task ends with may send off 2 * 3 more.
    assert helped.requests_per_session() == pytest.approx(6.0 * (1 + 0.5 * 6.0), rel=0.15)


def test_popularity_follows_zipf() -> None:
    rag = Rag(requests=40_000, documents=100, zipf=1.0)
    used = Counter(each.path[1][0] for each in rag.traffic().arrivals() if each.path)
    weights = 1 / np.arange(1, 101)
    expected = 40_000 * weights / weights.sum()
    assert [used[number + 1] for number in range(5)] == pytest.approx(expected[:5], rel=0.05)
    even = Rag(requests=40_000, documents=100, zipf=0.0)
    shares = Counter(each.path[1][0] for each in even.traffic().arrivals() if each.path)
    assert max(shares.values()) < 600


def test_documents_are_shared_up_to_the_first_that_differs() -> None:
    rag = Rag(requests=300, documents=3, retrieved=2, system=50, document=Constant(1000))
    paths = [each.path for each in rag.traffic().arrivals() if each.path]
    assert {common_prefix(a, b) for a, b in combinations(paths, 2)} == {50, 1050, 2050}
    assert len({path[1][0] for path in paths}) == 3
    assert len({path[2][0] for path in paths}) == 9


def test_few_shot_prompts_of_the_paper() -> None:
    requests = list(FewShot(requests=200).traffic().arrivals())
    paths = [each.path for each in requests if each.path]
    assert {common_prefix(a, b) for a, b in combinations(paths, 2)} == {341}
    assert all(each.prompt > 341 for each in requests)


def test_completions_share_the_front_of_the_file() -> None:
    code = Code(requests=400, system=10, file=Constant(1000), kept=0.6, pause=1.0)
    requests = served(code.traffic())
    first = {each.conversation: each for each in requests if each.turn == 0}
    for each in requests:
        assert each.path
        start = first[each.conversation].path
        assert start
        assert each.prompt == 1010
        if each.turn:
            assert common_prefix(start, each.path) == 610


def test_samples_and_beams() -> None:
    assert {each.samples for each in ParallelSampling(samples=6).traffic().arrivals()} == {6}
    beams = BeamSearch(requests=20, width=2).traffic().arrivals()
    assert {(each.samples, each.beam_width) for each in beams} == {(1, 2)}


def test_clients_differ() -> None:
    mix = ClientMix(requests=30_000, clients=10, rate=20.0, zipf=1.0, prefix=7, seed=2)
    requests = list(mix.traffic().arrivals())
    assert len(requests) / requests[-1].arrival == pytest.approx(20.0, rel=0.1)
    by_client: dict[int, list[Request]] = {}
    for each in requests:
        assert each.path
        assert each.path[0][1] == 7
        by_client.setdefault(each.path[0][0], []).append(each)
    weights = 1 / np.arange(1, 11)
    counts = [len(by_client[client]) for client in range(10)]
    assert counts == pytest.approx((30_000 * weights / weights.sum()).tolist(), rel=0.3)
    means = [np.mean([each.prompt - 7 for each in by_client[client]]) for client in range(10)]
    assert max(means) > 2 * min(means)
    assert np.exp(np.mean(np.log(means))) == pytest.approx(600, rel=0.5)


def test_tenants_keep_their_class_and_their_prefixes() -> None:
    mix = MultiTenant(
        requests=2000,
        tenants="gold@-1=chat:rate=3; bronze@5=long-context:rate=1,documents=2",
    )
    requests = served(mix.traffic())
    classes = Counter((each.slo_class, each.priority) for each in requests)
    assert set(classes) == {("gold", -1), ("bronze", 5)}
    assert classes["gold", -1] / classes["bronze", 5] == pytest.approx(3.0, rel=0.2)
    branches: dict[str, set[int]] = {"gold": set(), "bronze": set()}
    for each in requests:
        branches[each.slo_class].update(branch for branch, _ in each.path or ())
    assert not branches["gold"] & branches["bronze"]
    gold = [each for each in requests if each.slo_class == "gold" and each.turn]
    assert gold
    for each in gold:
        (before,) = (other for other in requests if other.id in each.after)
        assert before.path
        assert each.path
        assert common_prefix(before.path, each.path) == before.prompt + before.output


@pytest.mark.parametrize(
    "workload",
    [
        Chat(rate=50.0, think=1.0), Agent(rate=50.0), Rag(), Code(rate=50.0), ClientMix(rate=50.0),
        MultiTenant(tenants="a@0=code:rate=20; b@1=few-shot:rate=20"),
    ],
    ids=lambda each: each.name,
)  # fmt: skip
def test_memory_does_not_grow_with_requests(workload: Synthetic) -> None:
    def peak(requests: int) -> int:
        traffic = replace(workload, requests=requests).traffic()
        tracemalloc.start()
        for each in traffic.arrivals():
            following = [each]
            while following:
                ended = following.pop()
                following += traffic.completed(ended, ended.arrival)
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    assert peak(12_000) < 1.25 * peak(4_000)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Chat(requests=0), "chat: requests: expected a whole number from 1"),
        (lambda: Chat(requests=1.5), "got 1.5"),  # type: ignore[arg-type]
        (lambda: Chat(rate=float("nan")), "chat: rate: expected a finite number"),
        (lambda: Chat(rate=0.0), "chat: rate:"),
        (lambda: Chat(think=-1.0), "chat: think:"),
        (lambda: Chat(seed=-1), "chat: seed:"),
        (lambda: Chat(user=5), "chat: user: expected Lengths, got 5"),  # type: ignore[arg-type]
        (lambda: Chat(max_context=2000), "chat: max_context: expected at least 2304"),
        (lambda: Chat(rate=1.0, arrivals=ClosedLoop(2)), "arrivals 'closed' has no rate"),
    ],
)
def test_bad_options_are_refused(make: Callable[[], Workload], message: str) -> None:
    with pytest.raises(InputError) as refused:
        make()
    assert message in str(refused.value)


def test_workloads_are_values() -> None:
    one = Chat(arrivals=Gamma(2.0), user=Lognormal(50.0))
    assert one == Chat(arrivals=Gamma(2.0), user=Lognormal(50.0))
    assert hash(one) == hash(replace(one))
