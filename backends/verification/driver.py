"""Runs the steps of a workload through a scheduler and a policy, without a clock.

The order of calls is that of `sim.engine`, so a policy sees here what it sees in a simulation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

from sim.forking import Forking, sequences_of
from sim.policies.base import Policy
from sim.schedulers.base import Scheduler
from sim.sequence import Sequence, Status
from sim.step import Draft, Placement, Run
from workloads.request import Request, Workload

FEW_STEPS = 40
"""Decode steps that are taken at once at most; a whole run would leave little to look at."""


class Follower(Protocol):
    """Who is told of every step."""

    def follow(self, placement: Placement, singly: bool, drafts: Mapping[int, Draft]) -> None:
        """A step was placed; or, unless ``singly``, several decode steps at once."""

    def forked(self, parent: Sequence, child: Sequence) -> None:
        """``child`` runs on from where ``parent`` is."""

    def finished(self, seq: Sequence) -> None:
        """``seq`` is over."""


class Driver:
    """One run. Requests come one a step in order of arrival; follow-ups come when they are due.

    at_once: take several decode steps as one where policy and scheduler can.
    """

    def __init__(
        self,
        policy: Policy,
        scheduler: Scheduler,
        workload: Workload,
        follower: Follower,
        at_once: bool,
    ) -> None:
        self._policy = policy
        self._scheduler = scheduler
        self._traffic = workload.traffic()
        self._coming = self._traffic.arrivals()
        self._follower = follower
        self._at_once = at_once
        self._open: dict[int, int] = {}
        self._forking = Forking(policy, scheduler, self._new_sequence)
        self._more = True
        self.sequences = 0
        self.refused = 0

    def steps(self) -> Iterator[int]:
        """Yields the number of engine steps after each of them; ends with the last request."""
        taken = stalled = 0
        while self._more or self._scheduler.has_work:
            self._arrive()
            if not self._scheduler.has_work:
                continue
            n = self._leap() or self._step()
            taken += n
            stalled = 0 if n else stalled + 1
            if stalled > 1:
                self._drop_one()
            yield taken

    def _arrive(self) -> None:
        request = next(self._coming, None)
        self._more = request is not None
        if request is not None:
            self._submit(request)

    def _submit(self, request: Request) -> None:
        seq = self._new_sequence(request)
        longest = self._policy.budget.max_model_len
        if seq.limit > longest or not self._policy.can_ever_hold(seq):
            self.refused += 1
            return
        self._open[request.id] = sequences_of(request)
        self._forking.expect(request)
        self._scheduler.add(seq)

    def _new_sequence(self, request: Request, sample: int = 0) -> Sequence:
        self.sequences += 1
        return Sequence(self.sequences - 1, request, sample)

    def _step(self) -> int:
        step = self._scheduler.schedule()
        if not step.runs:
            return 0
        placement = self._policy.commit(step)
        self._follower.follow(placement, True, step.drafts or {})
        parents = self._forking.parents_in(step)
        finished = self._scheduler.update(step)
        for parent, child in self._forking.fork(parents):
            self._follower.forked(parent, child)
        self._choose_beams()
        self._finish(finished)
        return 1

    def _leap(self) -> int:
        """Several decode steps in none of which a sequence ends; 0 where a single step is due."""
        batch = list(self._scheduler.batch)
        if not (self._at_once and batch):
            return 0
        steps = min(self._scheduler.steady_steps() - 1, FEW_STEPS)
        change = self._forking.steps_to_change()
        if change is not None:
            steps = min(steps, change)
        plan = self._policy.plan_run(batch, steps) if steps > 0 else None
        if plan is None or plan.steps < 1:
            return 0
        runs = [Run(seq, seq.computed, plan.steps) for seq in batch]
        plan.apply(plan.steps)
        self._scheduler.schedule_run(plan.steps)
        self._scheduler.update_run(plan.steps)
        self._follower.follow(Placement(runs, ()), False, {})
        self._choose_beams()
        return plan.steps

    def _choose_beams(self) -> None:
        for dead, parent, child in self._forking.choose_beams():
            if child.status is Status.RUNNING:
                self._follower.forked(parent, child)
            self._follower.finished(dead)

    def _finish(self, finished: list[Sequence]) -> None:
        for seq in finished:
            self._follower.finished(seq)
            request = seq.request
            self._open[request.id] -= 1
            if not self._open[request.id]:
                self._completed(request)

    def _completed(self, request: Request) -> None:
        for following in self._traffic.completed(request, 0.0):
            self._submit(following)

    def _drop_one(self) -> None:
        """Nothing can be scheduled and nothing will change that: give up whoever is first."""
        seqs = [*self._scheduler.waiting, *self._scheduler.running]
        request = seqs[0].request
        for seq in seqs:
            if seq.request is request:
                self._scheduler.abort(seq)
                self._follower.finished(seq)
        self._forking.forget(request)
        self.refused += 1
        self._completed(request)
