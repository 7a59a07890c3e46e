"""How many operations an allocator does in a second while memory is nearly full."""

from __future__ import annotations

import random
import time
from typing import Any

from kvlab.config import RunConfig
from kvlab.running import policy_options_of
from sim.plugins import policy_of
from sim.policies.base import Policy
from sim.sequence import Sequence, Status
from sim.step import Run, Step
from workloads.request import Request

LEAST_SECONDS = 0.3
TURNS = 50
"""Operations between two looks at the clock."""
PROMPT = 256
"""Mean prompt of the sequences that come and go, tokens."""


class _Churn:
    """Fills a policy with ``fill`` tokens, then lets sequences leave and others come."""

    def __init__(self, policy: Policy, fill: int, seed: int) -> None:
        self.policy = policy
        self.refused = 0
        self._random = random.Random(seed)
        self._fill = fill
        self._held = 0
        self._inside: list[Sequence] = []
        self._numbers = 0

    def fill(self) -> None:
        """Bring sequences in until the memory is as full as wanted."""
        while self._held < self._fill and self._come():
            pass

    def turn(self) -> None:
        """One comes if there is room for one more, else one goes."""
        if self._held >= self._fill or not self._come():
            self._go()

    def _come(self) -> bool:
        policy, n = self.policy, self._random.randint(1, 2 * PROMPT - 1)
        request = Request(self._numbers, 0.0, n, PROMPT // 4)
        seq = Sequence(self._numbers, request)
        self._numbers += 1
        if not policy.can_ever_hold(seq) or not policy.can_admit(seq, 0):
            self.refused += 1
            return False
        if len(self._inside) >= policy.budget.max_seqs or not policy.allocate(seq, n):
            self.refused += 1
            return False
        seq.status = Status.RUNNING
        policy.commit(Step(runs=[Run(seq, 0, n)]))
        seq.computed = n
        self._inside.append(seq)
        self._held += n
        return True

    def _go(self) -> None:
        if self._inside:
            index = self._random.randrange(len(self._inside))
            self._inside[index], self._inside[-1] = self._inside[-1], self._inside[index]
            seq = self._inside.pop()
            seq.status = Status.FINISHED
            self.policy.release(seq)
            self._held -= seq.computed


def churned(config: RunConfig, fill: float) -> dict[str, Any]:
    """Operations (a prompt placed, or a sequence released) and the CPU seconds they took."""
    budget = config.budget()
    policy = policy_of(config.policy, budget, policy_options_of(config))
    churn = _Churn(policy, int(fill * (config.kv_tokens or 0)), config.seed)
    churn.fill()
    operations, start = 0, time.process_time()
    while (cpu_s := time.process_time() - start) < LEAST_SECONDS:
        for _ in range(TURNS):
            churn.turn()
        operations += TURNS
    return {"cpu_s": cpu_s, "operations": operations, "refused": churn.refused}
