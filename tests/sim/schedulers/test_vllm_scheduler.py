"""The scheduler on its own: what it asks of any policy, and what it does with the answers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from sim.budget import Budget
from sim.layers import AttentionSpec, LayerSpec
from sim.model import ModelSpec
from sim.policies.base import Policy
from sim.policies.contiguous import Contiguous
from sim.policies.paged import Paged
from sim.schedulers.vllm import GATE, SLOTS, SWAP, VllmScheduler
from sim.sequence import Sequence, Status
from sim.step import Step
from sim.usage import Usage
from workloads.errors import InputError
from workloads.request import Request

LAYER = LayerSpec(attention=AttentionSpec(heads=1, kv_heads=1, head_dim_k=32, head_dim_v=32))
MODEL = ModelSpec("small", (LAYER,), 64, 100)


class Tokens(Policy):
    """A policy that only counts: so many tokens in all. Every call is written down."""

    name = "tokens"

    def __init__(self, room: int) -> None:
        super().__init__(Budget(MODEL, 1 << 20))
        self.room = room
        self.held: dict[int, int] = {}
        self.calls: list[tuple[Any, ...]] = []

    def can_ever_hold(self, seq: Sequence) -> bool:
        return seq.limit <= self.room

    def allocate(self, seq: Sequence, n: int, hit: int = 0) -> bool:
        fits = sum(self.held.values()) + n <= self.room
        self.calls.append(("allocate", seq.id, n, fits))
        if fits:
            self.held[seq.id] = self.held.get(seq.id, 0) + n
        return fits

    def release(self, seq: Sequence) -> None:
        self.calls.append(("release", seq.id))
        self.held.pop(seq.id, None)

    def usage(self) -> tuple[Usage, ...]:
        return ()

    def holders(self) -> Iterable[int]:
        return self.held


def scheduler_of(cache: Policy, /, **options: Any) -> VllmScheduler:
    return VllmScheduler(cache, VllmScheduler.Options(**options))


def added(scheduler: VllmScheduler, *sizes: tuple[int, int], **changes: Any) -> list[Sequence]:
    """Sequences of these prompt and output lengths, waiting."""
    first = int(changes.pop("first", 0))
    seqs = []
    for number, (prompt, output) in enumerate(sizes, start=first):
        seq = Sequence(number, Request(number, 0.0, prompt, output))
        for name, values in changes.items():
            setattr(seq, name, values[number - first])
        scheduler.add(seq)
        seqs.append(seq)
    return seqs


def runs(step: Step) -> list[tuple[int, int, int]]:
    return [(seq.id, start, n) for seq, start, n in step.runs]


def ids(seqs: Iterable[Sequence]) -> list[int]:
    return [seq.id for seq in seqs]


def done(scheduler: VllmScheduler) -> tuple[list[tuple[int, int, int]], list[int]]:
    """One step: what ran, and who finished."""
    step = scheduler.schedule()
    ran = runs(step)
    scheduler.policy.commit(step)
    return ran, ids(scheduler.update(step))


def test_prompts_share_the_budget_and_decodes_come_first() -> None:
    scheduler = scheduler_of(Tokens(1000), max_batched_tokens=10)
    added(scheduler, (8, 3), (7, 2))
    assert done(scheduler) == ([(0, 0, 8), (1, 0, 2)], [])
    assert done(scheduler) == ([(0, 8, 1), (1, 2, 5)], [])
    assert done(scheduler) == ([(0, 9, 1), (1, 7, 1)], [0, 1])
    assert not scheduler.has_work


def test_whole_prompts_only_without_chunked_prefill() -> None:
    scheduler = scheduler_of(Tokens(1000), max_batched_tokens=10, chunked_prefill=False)
    added(scheduler, (8, 2), (7, 1))
    assert done(scheduler) == ([(0, 0, 8)], [])
    assert done(scheduler) == ([(0, 8, 1), (1, 0, 7)], [0, 1])


def test_the_threshold_cuts_long_prompts() -> None:
    scheduler = scheduler_of(Tokens(1000), max_batched_tokens=10, long_prefill_threshold=4)
    added(scheduler, (9, 1), (9, 1), (9, 1))
    assert done(scheduler)[0] == [(0, 0, 4), (1, 0, 4), (2, 0, 2)]
    assert done(scheduler)[0] == [(0, 4, 4), (1, 4, 4), (2, 2, 2)]


def test_a_decode_behind_a_long_prompt_waits_for_the_budget() -> None:
    scheduler = scheduler_of(Tokens(1000), max_batched_tokens=5, long_prefill_threshold=4)
    added(scheduler, (30, 1), (1, 5))
    assert done(scheduler)[0] == [(0, 0, 4), (1, 0, 1)]
    scheduler.options = VllmScheduler.Options(max_batched_tokens=4, long_prefill_threshold=4)
    assert done(scheduler)[0] == [(0, 4, 4)]
    scheduler.options = VllmScheduler.Options(max_batched_tokens=5, long_prefill_threshold=4)
    assert done(scheduler)[0] == [(0, 8, 4), (1, 1, 1)]


def test_the_last_is_preempted_and_waits_first() -> None:
    policy = Tokens(10)
    scheduler = scheduler_of(policy)
    first, second = added(scheduler, (5, 9), (5, 9))
    added(scheduler, (1, 1), first=2)
    done(scheduler)
    step = scheduler.schedule()
    assert ids(step.preempted) == [1]
    assert [(seq.id, reason) for seq, reason in step.refused] == [(0, SLOTS)]
    assert runs(step) == [(0, 5, 1)]
    assert second.status is Status.PREEMPTED
    assert (second.computed, second.high, second.tokens) == (0, 5, 6)
    assert ids(scheduler.waiting) == [1, 2]
    scheduler.update(step)
    scheduler.abort(first)
    step = scheduler.schedule()
    assert ids(step.resumed) == [1]
    assert ids(step.admitted) == [2]
    assert runs(step) == [(1, 0, 6), (2, 0, 1)]


def test_priorities_decide_who_waits_and_who_goes() -> None:
    policy = Tokens(15)
    scheduler = scheduler_of(policy, policy="priority")
    added(scheduler, (5, 9), (5, 9), (5, 9), priority=[1, 2, 0])
    assert done(scheduler)[0] == [(2, 0, 5), (0, 0, 5), (1, 0, 5)]
    step = scheduler.schedule()
    assert ids(step.preempted) == [1]
    assert runs(step) == [(2, 5, 1), (0, 5, 1)]


def test_ties_of_waiting_sequences_are_broken_by_text() -> None:
    scheduler = scheduler_of(Tokens(100), policy="priority")
    added(scheduler, *[(1, 1)] * 3, first=9)
    assert ids(scheduler.waiting) == [10, 11, 9]


def test_swapped_sequences_come_back_with_what_they_had() -> None:
    budget = Budget(MODEL, 6 * 4 * 128)
    policy = Paged(budget, Paged.Options(block_size=4, reserve_full_isl=False))
    scheduler = scheduler_of(policy, preemption="swap")
    first, second = added(scheduler, (8, 6), (8, 6))
    done(scheduler)
    step = scheduler.schedule()
    assert ids(step.preempted) == [1]
    assert second.status is Status.SWAPPED
    assert (second.computed, step.swapped_out) == (8, 2 * 4 * 128)
    policy.commit(step)
    scheduler.update(step)
    step = scheduler.schedule()
    assert [(seq.id, reason) for seq, reason in step.refused] == [(1, SWAP)]
    policy.commit(step)
    scheduler.update(step)
    scheduler.abort(first)
    step = scheduler.schedule()
    assert (ids(step.resumed), step.swapped_in) == ([1], 2 * 4 * 128)
    assert runs(step) == [(1, 8, 1)]
    policy.commit(step)
    policy.check_integrity()


def test_the_gate_is_told_apart_from_missing_slots() -> None:
    for gate, reason in ((True, GATE), (False, SLOTS)):
        options = Paged.Options(block_size=4, reserve_full_isl=gate)
        scheduler = scheduler_of(Paged(Budget(MODEL, 5 * 4 * 128), options), max_batched_tokens=12)
        added(scheduler, (8, 1), (16, 1), (1, 1))
        assert [r for _, r in scheduler.schedule().refused] == ([reason] if gate else [])


def test_aborts_free_at_once_wherever_a_sequence_is() -> None:
    policy = Tokens(10)
    scheduler = scheduler_of(policy, max_seqs=1)
    running, waiting = added(scheduler, (5, 9), (5, 9))
    done(scheduler)
    scheduler.abort(waiting)
    scheduler.abort(running)
    assert not policy.held
    assert not scheduler.has_work
    assert running.status is waiting.status is Status.FAILED
    with pytest.raises(ValueError, match="not in"):
        scheduler.abort(waiting)


def test_the_longest_length_ends_sequences_that_have_their_least() -> None:
    scheduler = scheduler_of(Tokens(1000), max_model_len=8)
    added(scheduler, (5, 20), (5, 20), min_tokens=[0, 5])
    finished = [done(scheduler)[1] for _ in range(6)]
    assert finished == [[], [], [0], [], [], []]
    # The other one has seven tokens in the cache, wants more, and may not have an eighth.
    assert scheduler.running[0].computed == 7
    assert done(scheduler) == ([], [])


def test_forks_run_on_beside_their_parent() -> None:
    policy = Paged(Budget(MODEL, 16 * 4 * 128), Paged.Options(block_size=4))
    scheduler = scheduler_of(policy, max_seqs=3)
    (parent,) = added(scheduler, (6, 4))
    for _ in range(2):
        step = scheduler.schedule()
        policy.commit(step)
        scheduler.update(step)
    children = [Sequence(number, Request(number, 0.0, 6, 4)) for number in (1, 2, 3)]
    assert [scheduler.fork(parent, child) for child in children] == [True, True, False]
    assert scheduler.steady_steps() == 0
    step = scheduler.schedule()
    assert runs(step) == [(0, 7, 1), (1, 7, 1), (2, 7, 1)]
    assert len(policy.commit(step).copies) == 2
    policy.check_integrity()
    assert ids(scheduler.update(step)) == []
    assert len(scheduler.batch) == 3
    step = scheduler.schedule()
    assert ids(scheduler.update(step)) == [0, 1, 2]


def test_only_due_sequences_are_visited() -> None:
    policy = Paged(Budget(MODEL, 64 * 16 * 128))
    scheduler = scheduler_of(policy)
    added(scheduler, (20, 40), (31, 40))
    visited: list[int] = []
    allocate = policy.allocate

    def watched(seq: Sequence, n: int, hit: int = 0) -> bool:
        visited.append(seq.id)
        return allocate(seq, n, hit)

    policy.allocate = watched  # type: ignore[method-assign]
    done(scheduler)
    visited.clear()
    for _ in range(32):
        step = scheduler.schedule()
        assert len(step.runs) == 2
        policy.commit(step)
        scheduler.update(step)
    # A block is begun at 32 and 48 tokens: by the second after 1 and 17 steps, and so on.
    assert visited == [1, 0, 1, 0]


def test_steady_steps_end_with_the_first_sequence() -> None:
    scheduler = scheduler_of(Contiguous(Budget(MODEL, 1000 * 128)), max_seqs=2)
    added(scheduler, (5, 4), (5, 9), (5, 9))
    assert scheduler.steady_steps() == 0
    done(scheduler)
    # The third one waits for a slot.
    assert scheduler.steady_steps() == 3
    assert scheduler.refusals_per_step == 0
    scheduler.schedule_run(3)
    assert ids(scheduler.update_run(3)) == [0]
    assert ids(scheduler.running) == [1]
    assert scheduler.steady_steps() == 0


def test_a_refused_sequence_is_no_reason_for_single_steps() -> None:
    policy = Paged(Budget(MODEL, 8 * 4 * 128), Paged.Options(block_size=4))
    scheduler = scheduler_of(policy)
    added(scheduler, (9, 8), (20, 1))
    step = scheduler.schedule()
    assert [reason for _, reason in step.refused] == [GATE]
    policy.commit(step)
    scheduler.update(step)
    assert scheduler.steady_steps() == 7
    assert scheduler.refusals_per_step == 1


@pytest.mark.parametrize("option", ["max_seqs", "max_batched_tokens", "max_model_len"])
def test_options_are_checked(option: str) -> None:
    with pytest.raises(InputError, match=f"{option}: expected a whole number from 1"):
        VllmScheduler.Options(**{option: 0})
    with pytest.raises(InputError, match="long_prefill_threshold"):
        VllmScheduler.Options(long_prefill_threshold=-1)
