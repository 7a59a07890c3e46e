"""Maps that are drawn again and again against the whole pool, looked at anew."""

from __future__ import annotations

import random

import numpy as np
import pytest

from sim.budget import Budget
from sim.layers import AttentionSpec, LayerSpec
from sim.model import ModelSpec
from sim.policies.paged import Paged
from sim.sequence import Sequence, Status
from sim.state import StateSpec
from sim.step import Run, Step
from workloads.request import Request

HEADS = {"heads": 1, "kv_heads": 1, "head_dim_k": 32, "head_dim_v": 32}
FULL = LayerSpec(attention=AttentionSpec(**HEADS))
WINDOW = LayerSpec(attention=AttentionSpec(**HEADS, kind="swa", window=6))
STATE = LayerSpec(state=StateSpec(kind="shortconv", d_inner=64, d_conv=2))
ACTIONS = ("admit", "step", "step", "fork", "cut", "finish", "preempt")


def policy_of(layers: tuple[LayerSpec, ...], cells: int) -> Paged:
    model = ModelSpec("made up", layers, 64, 100)
    budget = Budget(model, bytes=cells * model.token_bytes() + 16 * model.state_bytes)
    mode = {"mamba_cache_mode": "align"} if STATE in layers else {}
    return Paged(budget, Paged.Options(block_size=4, **mode))


class Traffic:
    """Sequences that come, grow, share, lose their tails and go."""

    def __init__(self, policy: Paged) -> None:
        self.policy = policy
        self.running: list[Sequence] = []
        self.made = 0

    def do(self, action: str, number: int) -> None:
        if action == "admit":
            path = ((1, 10), (100 + self.made, 60))
            self.admit(Sequence(self.made, Request(self.made, 0.0, 1 + number % 20, 40, path)))
            self.made += 1
        elif self.running:
            getattr(self, action)(self.running[number % len(self.running)], number)

    def admit(self, seq: Sequence) -> None:
        policy = self.policy
        hit = policy.lookup(seq)
        n = policy.chunk_of(seq, hit, seq.tokens - hit)
        if policy.can_admit(seq, hit) and policy.allocate(seq, n, hit):
            policy.commit(Step(runs=[Run(seq, hit, n)]))
            seq.computed = hit + n
            self.running.append(seq)

    def step(self, seq: Sequence, number: int) -> None:
        if seq.computed < seq.limit - 1:
            seq.tokens = max(seq.tokens, seq.computed + 1)
            if self.policy.allocate(seq, 1):
                self.policy.commit(Step(runs=[Run(seq, seq.computed, 1)]))
                seq.computed += 1

    def fork(self, parent: Sequence, number: int) -> None:
        child = Sequence(self.made, parent.request, sample=1)
        self.made += 1
        child.tokens, child.computed = parent.tokens, parent.computed
        self.policy.fork(parent, child)
        self.running.append(child)

    def cut(self, seq: Sequence, number: int) -> None:
        self.policy.seq_rm(seq.id, 1 + number % max(seq.computed, 1), -1)

    def finish(self, seq: Sequence, number: int) -> None:
        self.leave(seq, Status.FINISHED)

    def preempt(self, seq: Sequence, number: int) -> None:
        self.leave(seq, Status.PREEMPTED)
        seq.computed = 0
        if not seq.sample:
            self.admit(seq)

    def leave(self, seq: Sequence, status: Status) -> None:
        self.running.remove(seq)
        seq.status = status
        self.policy.release(seq)


@pytest.mark.parametrize(
    "layers", [(FULL,), (FULL, WINDOW), (STATE, FULL)], ids=["full", "windows", "states"]
)
@pytest.mark.parametrize("seed", range(25))
def test_a_map_drawn_again_is_the_whole_map_there(layers, seed):
    rng = random.Random(seed)
    policy = policy_of(layers, cells=160)
    traffic = Traffic(policy)
    every_third = np.arange(0, policy.usage()[0].capacity, 3)
    for _ in range(60):
        traffic.do(rng.choice(ACTIONS), rng.randrange(1000))
        if rng.random() < 0.5:
            whole = policy.owners()
            assert (policy.owners_at(every_third) == whole[every_third]).all()
