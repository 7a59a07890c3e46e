"""Puts a policy through a whole run while a slow model watches every cell.

Any policy, a user's own too, must keep four promises at every step: its own integrity check
passes, every running sequence finds its tokens where the policy says they are, a part of the map
of its cells is what the whole map says there, and nobody who has left holds anything.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from sim.budget import Budget
from sim.errors import IntegrityError
from sim.policies.base import Policy
from sim.samples import names_cells
from sim.schedulers.base import Scheduler
from sim.schedulers.vllm import VllmScheduler
from sim.sequence import Sequence, Status
from sim.shadow import Shadow
from sim.step import Cells, Run, Step
from workloads.request import Request

MOST_STEPS = 20_000


class CheckedRun:
    """Requests through a scheduler and a policy, a step or a decode run at a time.

    ``scheduler``: by default vLLM's, with ``scheduler_options``.
    """

    def __init__(
        self,
        policy: Policy,
        scheduler_options: dict[str, Any] | None = None,
        longest_run: Callable[[], int] = lambda: 1,
        scheduler: Scheduler | None = None,
    ) -> None:
        budget = policy.budget
        limits = {"max_seqs": budget.max_seqs, "max_model_len": budget.max_model_len}
        options = VllmScheduler.Options(**limits | (scheduler_options or {}))
        self.policy = policy
        self.scheduler = VllmScheduler(policy, options) if scheduler is None else scheduler
        self.steps = 0
        self.finished: list[Sequence] = []
        self.failed: list[tuple[Sequence, str]] = []
        self._longest_run = longest_run
        self._shadow = Shadow(policy) if names_cells(policy) else None
        self._swapped: set[int] = set()
        self._parts: dict[tuple[int, int], Cells] = {}
        """Parts of maps: of a cache, every seventh cell from one on."""

    def serve(self, requests: Iterable[Request]) -> None:
        """Run until all are done; ``arrival`` counts steps here. Sequences that never fit are left.

        Raises `IntegrityError` at the first broken promise, or when the run does not end.
        """
        coming = [Sequence(number, request) for number, request in enumerate(requests)]
        coming = [c for c in coming if not self.scheduler.misfit_of(c)]
        while coming or self.scheduler.has_work:
            while coming and (coming[0].arrival <= self.steps or not self.scheduler.has_work):
                self.scheduler.add(coming.pop(0))
            self._advance(coming[0].arrival - self.steps if coming else MOST_STEPS)
            if self.steps > MOST_STEPS:
                raise IntegrityError(f"{self.policy.name}: no end after {MOST_STEPS} steps")
        self._check([])
        self.scheduler.forget()
        for part in self.policy.usage():
            if part.free != part.capacity:
                raise IntegrityError(f"{self.policy.name}: {part} after everybody has left")

    def _advance(self, until_arrival: float) -> None:
        steps = min(self.scheduler.steady_steps(), self._longest_run(), max(1, int(until_arrival)))
        plan = self.policy.plan_run(self.scheduler.batch, steps) if steps > 1 else None
        if plan is None:
            self._single()
            return
        steps = min(steps, plan.steps)
        seqs = list(self.scheduler.batch)
        starts = [seq.computed for seq in seqs]
        plan.apply(steps)
        self.scheduler.schedule_run(steps)
        for seq, start in zip(seqs, starts, strict=True):
            if self._shadow is not None:
                self._shadow.write(seq, start, steps)
        self.steps += steps
        self._check([(seq, start + steps) for seq, start in zip(seqs, starts, strict=True)])
        self._leave(self.scheduler.update_run(steps))

    def _single(self) -> None:
        step = self.scheduler.schedule()
        self.failed += step.failed
        runs = list(step.runs)
        void = {seq: draft.rejected for seq, draft in (step.drafts or {}).items()}
        if runs:
            placement = self.policy.commit(step)
            if self._shadow is not None:
                self._shadow.copy(placement)
                # What comes from the host was there before the copies, and has moved with them.
                self._restore(step, runs)
                for run in runs:
                    self._shadow.write(*run, void.get(run.seq.id, 0))
            self._check([(run.seq, run.start + run.n - void.get(run.seq.id, 0)) for run in runs])
        self.steps += 1
        self._leave(self.scheduler.update(step))

    def _restore(self, step: Step, runs: list[Run]) -> None:
        """Sequences that come back from the host have their old tokens again."""
        assert self._shadow is not None
        starts = {run.seq.id: run.start for run in runs}
        for seq in step.resumed:
            if seq.id in self._swapped:
                self._swapped.remove(seq.id)
                self._shadow.write(seq, 0, starts.get(seq.id, seq.computed))
        swapped = (seq for seq in step.preempted if seq.status is Status.SWAPPED)
        self._swapped.update(seq.id for seq in swapped)

    def _check(self, computed: list[tuple[Sequence, int]]) -> None:
        self.policy.check_integrity()
        if self._shadow is not None:
            for seq, length in computed:
                self._shadow.check(seq, length)
            self._check_map()

    def _check_map(self) -> None:
        """A part of the map is what the whole map says there; another part after some steps."""
        part = self.steps // 32 % 7
        for cache in range(len(self.policy.usage())):
            owners = self.policy.owners(cache)
            some = self._parts.setdefault((cache, part), np.arange(part, len(owners), 7))
            if (self.policy.owners_at(some, cache) != owners[some]).any():
                raise IntegrityError(
                    f"{self.policy.name}: the map of cache {cache} differs in part"
                )

    def _leave(self, finished: list[Sequence]) -> None:
        self.finished += finished
        known = {seq.id for seq in self.scheduler.running} | set(self.scheduler.retained)
        strangers = set(self.policy.holders()) - known
        if strangers:
            raise IntegrityError(f"{self.policy.name}: {strangers} do not run and hold cells")


def check_policy(make: Callable[[Budget], Policy], budget: Budget, seed: int) -> int:
    """Serve random requests in little memory, twice: step by step, and in runs; the steps taken.

    Raises `IntegrityError` where the policy breaks a promise, or where both ways differ.
    """
    rng = random.Random(seed)
    requests = [
        Request(number, float(rng.randrange(200)), rng.randint(1, 400), rng.randint(1, 100))
        for number in range(40)
    ]
    requests.sort(key=lambda request: request.arrival)
    single = CheckedRun(make(budget))
    single.serve(requests)
    several = CheckedRun(make(budget), longest_run=lambda: rng.randint(1, 64))
    several.serve(requests)
    one, other = ([seq.id for seq in run.finished] for run in (single, several))
    if one != other:
        raise IntegrityError(f"sequences end in another order in runs of steps: {other}")
    return single.steps + several.steps
