"""Conversations with second tries: what they share, and what they do not."""

from itertools import islice

import numpy as np
import pytest

from workloads.prefix import check_path, common_prefix
from workloads.spec import workload_of


def sessions_of(n: int, **options):
    workload = workload_of("chat-branching", requests=10_000, rate=1.0, seed=3, **options)
    return list(islice(workload.sessions(np.random.default_rng(3)), n))


def test_paths_are_sound_and_conversations_share_the_system_prompt_alone():
    sessions = sessions_of(200)
    for session in sessions:
        for request in session:
            check_path(request.path, request.prompt + request.output)
            assert request.prompt + request.output <= 8192
    assert common_prefix(sessions[0][0].path, sessions[1][0].path) == 256


@pytest.mark.parametrize("system", [0, 100])
def test_a_second_answer_shares_the_whole_prompt(system):
    for session in sessions_of(50, again=1.0, system=system):
        for first, second in zip(session[::2], session[1::2], strict=False):
            assert first.prompt == second.prompt
            assert common_prefix(first.path, second.path) == first.prompt
        for second, following in zip(session[1::2], session[2::2], strict=False):
            assert common_prefix(second.path, following.path) == second.prompt + second.output


def test_a_changed_message_shares_what_came_before_it():
    for session in sessions_of(50, again=0.0, edited=1.0):
        for i, (first, second) in enumerate(zip(session[::2], session[1::2], strict=False)):
            before = session[2 * i - 1] if i else None
            shared = 256 if before is None else before.prompt + before.output
            assert common_prefix(first.path, second.path) == shared


def test_without_second_tries_it_is_chat():
    plain = workload_of("chat", requests=300, rate=2.0, seed=5)
    branching = workload_of("chat-branching", requests=300, rate=2.0, seed=5, again=0.0, edited=0.0)
    both = [
        [(r.prompt, r.output, r.conversation, r.turn) for r in w.traffic().arrivals()]
        for w in (plain, branching)
    ]
    assert len(both[0]) > 30
    assert [size[:2] for size in both[0]][:5] == [size[:2] for size in both[1]][:5]


def test_the_mean_number_of_requests_is_that_of_the_sessions():
    workload = workload_of("chat-branching", requests=10, rate=1.0, seed=1)
    sizes = [len(session) for session in sessions_of(4000)]
    assert workload.requests_per_session() == pytest.approx(sum(sizes) / len(sizes), rel=0.05)
