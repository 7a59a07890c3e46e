"""Every scheduler over every policy it takes, each cell watched, and the rules of each by hand."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from sim.budget import Budget
from sim.checking import CheckedRun
from sim.layers import AttentionSpec, LayerSpec
from sim.model import ModelSpec
from sim.plugins import policy_of, scheduler_of
from sim.policies.base import Policy
from sim.schedulers.base import Scheduler
from sim.sequence import Sequence
from sim.usage import Usage
from workloads.errors import InputError
from workloads.request import PrefixPath, Request

LLAMA = [("ring", "full"), ("iswa", "windowed"), ("iswa", "chunked")]
ANY = [
    *LLAMA,
    ("none", "full"),
    ("contiguous", "full"),
    ("paged", "full"),
    ("paged", "windowed"),
    ("radix", "full"),
]
PAIRS = [("llama-server", *policy) for policy in LLAMA] + [
    (scheduler, *policy)
    for scheduler in ("vllm", "static", "orca", "fcfs-no-chunk", "sglang", "slo")
    for policy in ANY
]


def requests_with_branches(n: int) -> list[Request]:
    """Every third goes on from the one before, every fourth branches off its prompt."""
    requests: list[Request] = []
    for number in range(n):
        prompt, output = 20 + (37 * number) % 90, 1 + (13 * number) % 40
        path: PrefixPath = ((number, prompt + output),)
        before = requests[-1].path if requests else None
        if before is not None and number % 3 == 2:
            shared = before[-1][1]
            prompt += shared
            path = (*before, (number, prompt + output))
        elif before is not None and number % 4 == 3:
            shared = min(before[0][1], prompt)
            path = ((before[0][0], shared), (number, prompt + output))
        requests.append(Request(number, 4.0 * number, prompt, output, path, number // 3))
    return requests


@pytest.mark.parametrize(("scheduler", "policy", "kind"), PAIRS)
def test_every_scheduler_keeps_every_policy_whole(budget_of, scheduler, policy, kind):
    # Where all slots together fill the cells, llama-server gives up what runs: leave it room.
    tokens = 2000 if scheduler == "llama-server" else 700
    cache = policy_of(policy, budget_of(kind, tokens=tokens, max_batched_tokens=300))
    chosen = scheduler_of(scheduler, cache)
    run = CheckedRun(cache, longest_run=lambda: 16, scheduler=chosen)
    run.serve(requests_with_branches(14))
    fitting = [r for r in requests_with_branches(14) if not chosen.misfit_of(Sequence(0, r))]
    assert len(run.finished) == len(fitting) > 10


# ---- by hand, over a policy that only counts

LAYER = LayerSpec(attention=AttentionSpec(heads=1, kv_heads=1, head_dim_k=32, head_dim_v=32))
MODEL = ModelSpec("small", (LAYER,), 64, 100)


class Tokens(Policy):
    """So many tokens in all, and prefixes that are said to be there."""

    name = "tokens"

    def __init__(self, room: int, **limits: int) -> None:
        super().__init__(Budget(MODEL, room * MODEL.token_bytes(), **limits))
        self.room = room
        self.held: dict[int, int] = {}
        self.cached: dict[int, int] = {}

    def lookup(self, seq: Sequence) -> int:
        return self.cached.get(seq.id, 0)

    def can_ever_hold(self, seq: Sequence) -> bool:
        return seq.limit <= self.room

    def allocate(self, seq: Sequence, n: int, hit: int = 0) -> bool:
        fits = sum(self.held.values()) + n + hit <= self.room
        if fits:
            self.held[seq.id] = self.held.get(seq.id, 0) + n + hit
        return fits

    def release(self, seq: Sequence) -> None:
        self.held.pop(seq.id, None)

    def usage(self) -> tuple[Usage, ...]:
        live = sum(self.held.values())
        size = MODEL.token_bytes()
        return (Usage(self.room, live, 0, 0, self.room - live, 0, 0, size),)

    def holders(self) -> Iterable[int]:
        return self.held


def added(scheduler: Scheduler, *sizes: tuple[int, int], **fields: list[Any]) -> list[Sequence]:
    seqs = []
    for number, (prompt, output) in enumerate(sizes):
        given = {name: values[number] for name, values in fields.items()}
        seqs.append(Sequence(number, Request(number, given.pop("arrival", 0.0), prompt, output)))
        for name, value in given.items():
            setattr(seqs[-1].request, name, value)
        scheduler.add(seqs[-1])
    return seqs


def steps_of(scheduler: Scheduler, most: int = 50) -> list[list[tuple[int, int]]]:
    """(sequence, tokens) of every step."""
    steps = []
    while scheduler.has_work and len(steps) < most:
        step = scheduler.schedule()
        steps.append([(run.seq.id, run.n) for run in step.runs])
        scheduler.update(step)
    return steps


def test_static_lets_nobody_join_before_the_last_has_ended():
    scheduler = scheduler_of("static", Tokens(1000), {"max_seqs": 2})
    added(scheduler, (5, 1), (6, 3), (7, 2))
    assert steps_of(scheduler) == [
        [(0, 5), (1, 6)],
        [(1, 1)],
        [(1, 1)],
        [(2, 7)],
        [(2, 1)],
    ]


def test_orca_reserves_what_a_request_will_become_and_joins_at_every_step():
    scheduler = scheduler_of("orca", Tokens(20))
    added(scheduler, (8, 3), (4, 2), (6, 2))
    # 11 + 6 tokens are reserved of 20; the third needs 8 and waits until the second has gone.
    assert steps_of(scheduler) == [
        [(0, 8), (1, 4)],
        [(0, 1), (1, 1)],
        [(0, 1), (2, 6)],
        [(2, 1)],
    ]


@pytest.mark.parametrize(("reserve", "tokens"), [("oracle", 11), ("pow2", 16), ("max", 20)])
def test_orca_reservations(reserve, tokens):
    scheduler = scheduler_of("orca", Tokens(20), {"reserve": reserve})
    [seq] = added(scheduler, (8, 3))
    assert scheduler.reservation_of(seq) == tokens


def test_whole_prompts_wait_for_a_step_of_their_own():
    scheduler = scheduler_of("fcfs-no-chunk", Tokens(1000), {"max_batched_tokens": 10})
    seqs = added(scheduler, (6, 2), (7, 1), (2, 1))
    assert steps_of(scheduler) == [[(0, 6)], [(0, 1), (1, 7), (2, 2)]]
    assert scheduler.misfit_of(seqs[0]) == ""
    assert "one step (10)" in scheduler.misfit_of(Sequence(9, Request(9, 0.0, 9, 2)))


def test_earliest_deadline_goes_first():
    scheduler = scheduler_of(
        "slo", Tokens(1000), {"max_seqs": 1, "ttft_s": {"default": 1.0, "batch": 30.0}}
    )
    added(
        scheduler,
        (3, 1),
        (4, 1),
        (5, 1),
        slo_class=["batch", "default", "unheard-of"],
        arrival=[0.0, 5.0, 4.0],
    )
    assert [seq.id for seq in scheduler.waiting] == [2, 1, 0]
    assert steps_of(scheduler) == [[(2, 5)], [(1, 4)], [(0, 3)]]
    with pytest.raises(InputError, match="'default'"):
        scheduler_of("slo", Tokens(10), {"ttft_s": {"batch": 1.0}})


def test_sglang_takes_the_longest_cached_prefix_first_and_prompts_before_decodes():
    policy = Tokens(1000)
    policy.cached = {1: 4, 2: 6}
    scheduler = scheduler_of("sglang", policy, {"max_batched_tokens": 6})
    added(scheduler, (5, 2), (7, 2), (8, 2))
    assert steps_of(scheduler) == [
        [(2, 2), (1, 3), (0, 1)],
        [(0, 4)],
        [(2, 1), (1, 1), (0, 1)],
    ]


def test_sglang_admits_by_its_estimate_of_what_is_to_come():
    scheduler = scheduler_of("sglang", Tokens(100))
    added(scheduler, (20, 40), (10, 35))
    # Of 80 free tokens, 0.7 x 39 are expected to be used: 45 more fit. One token more does not.
    assert steps_of(scheduler, 2) == [[(0, 20)], [(1, 10)]]
    scheduler = scheduler_of("sglang", Tokens(100))
    added(scheduler, (20, 40), (10, 45))
    assert steps_of(scheduler, 3) == [[(0, 20)], [(0, 1)], [(0, 1)]]


def test_sglang_retracts_whoever_has_the_least_output_and_grows_careful():
    scheduler = scheduler_of("sglang", Tokens(40), {"conservativeness": 0.1})
    seqs = added(scheduler, (10, 20), (12, 5))
    before = scheduler.new_token_ratio
    steps_of(scheduler, 5)
    assert scheduler.new_token_ratio < before
    added_late = Sequence(9, Request(9, 0.0, 9, 4))
    scheduler.add(added_late)
    steps_of(scheduler, 40)
    assert not scheduler.has_work
    assert seqs[0].preemptions == 0


def test_llama_server_says_which_policies_it_takes():
    with pytest.raises(InputError, match=r"llama-server: policy 'tokens'.*expected ring"):
        scheduler_of("llama-server", Tokens(10))
