"""The engine loop: one SimPy process that schedules, places, waits and records, step by step.

Where the next steps are plain decode steps between which nothing but counters moves, they are
taken as one: planned by the policy, timed as arrays, and cut before the first step at whose start
something else could have happened. `Engine.exact_steps` is the reference without any of that, nor
of what is kept to save looking: each step is an event of SimPy's, in which each sequence is
visited, added up and asked whether it has ended. The results are the same to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from itertools import count
from typing import Any, Final, Protocol

import simpy
from simpy.events import Event

from sim.clock import FOREVER, to_seconds, to_ticks
from sim.decode_run import DecodeRun, Priced
from sim.forking import Forking, sequences_of
from sim.instant import Turn
from sim.link import HostLink
from sim.policies.base import HandedOver, Policy
from sim.pricing import priced
from sim.recorder import Recorder
from sim.schedulers.base import Scheduler
from sim.sequence import Sequence, Status
from sim.step import Placement, Step
from sim.timing.base import TimeModel
from sim.work import size_of, work_of
from workloads.request import Request

LONGEST_RUN: Final = 4096
NEVER = float("inf")


class StepHooks(Protocol):
    """What is to be done around every single step; steady runs of decode steps have none."""

    def before(self, step: Step) -> Generator[Event, Any, None]:
        """A process that the step waits for."""

    def after(self, step: Step) -> None:
        """The step is computed, and the scheduler does not know it yet."""


class _Begun:
    """A single step that runs from ``start`` on (ticks)."""

    def __init__(self, step: Step, placement: Placement, start: int, ticks: int) -> None:
        self.step = step
        self.placement = placement
        self.start = start
        self.ticks = ticks


class _Leap:
    """Steps of a plan that are taken at once, from ``start`` on (ticks)."""

    def __init__(self, plan: DecodeRun, taken: Priced, start: int) -> None:
        self.plan = plan
        self.taken = taken
        self.start = start


class Engine:
    """One replica: a scheduler, a policy and a time model on a shared clock.

    ``on_completed(request, seconds)`` is called when all samples of a request are done, or when
    the request is given up. ``peers``: the turns of the engines that share the clock.
    ``numbers``: ids of sequences, which no other engine of the run may use.
    """

    def __init__(
        self,
        env: simpy.Environment,
        policy: Policy,
        scheduler: Scheduler,
        time_model: TimeModel,
        recorder: Recorder,
        on_completed: Callable[[Request, float], None],
        exact_steps: bool = False,
        peers: list[Turn] | None = None,
        numbers: Iterator[int] | None = None,
    ) -> None:
        self.policy = policy
        self.scheduler = scheduler
        self.recorder = recorder
        self.exact_steps = scheduler.visits_each = exact_steps
        self.hooks: list[StepHooks] = []
        self._env = env
        self._turn = Turn(env, [] if peers is None else peers)
        self._time_model = time_model
        self._link = HostLink(env, time_model)
        self._on_completed = on_completed
        self._numbers = count() if numbers is None else numbers
        self._unfinished: dict[int, int] = {}
        self._forking = Forking(policy, scheduler, self._new_sequence)
        self._idle: Event | None = None
        self._last_step = 1
        self._quiet = 0.0
        env.process(self._serve())

    def submit(
        self, request: Request, handed_over: bool = False, state: HandedOver | None = None
    ) -> None:
        """Take a request in; one that can never fit fails at once.

        handed_over: K and V of its prompt and its first token are there already; state: as the
        policy of another replica saved them, where it does.
        """
        seq = self._new_sequence(request)
        if handed_over:
            seq.computed = seq.high = request.prompt
            seq.tokens = request.prompt + 1
            seq.status = Status.HANDED_OVER
        reason = self.scheduler.misfit_of(seq)
        if reason:
            self._give_up(request, reason)
            return
        if state is not None:
            self.policy.take_over(seq, state)
        self._unfinished[request.id] = sequences_of(request)
        self._forking.expect(request)
        self.scheduler.add(seq)
        self._turn.wake()
        if self._idle is not None:
            self._idle.succeed()
            self._idle = None

    def _new_sequence(self, request: Request, sample: int = 0) -> Sequence:
        return Sequence(next(self._numbers), request, sample)

    def _give_up(self, request: Request, reason: str) -> None:
        self.recorder.failed(request, reason)
        self._on_completed(request, self._env.now)

    # The loop.

    def _serve(self) -> Generator[Event, Any, None]:
        stalled, turn = 0, self._turn
        while True:
            if not self.scheduler.has_work:
                turn.rest()
                self._idle = self._env.event()
                yield self._idle
            if not turn.is_settled:
                yield from turn.settle()
            leap = self._plan()
            if leap is not None:
                turn.begin(to_seconds(self._begin_run(leap)), self._quiet)
                if not turn.passes():
                    yield turn.step_end()
                self._end_run(leap)
                continue
            step = self.scheduler.schedule()
            for seq, reason in step.failed:
                self._fail(seq, reason)
            stalled = 0 if step.runs else stalled + 1
            if step.runs:
                if step.swapped_out or step.swapped_in or self.hooks:
                    yield from self._prepare(step)
                begun = self._begin(step)
                turn.begin(to_seconds(begun.ticks))
                if self.exact_steps or not turn.passes():
                    yield turn.step_end()
                self._end(begun)
            elif stalled > 1:
                self._drop_one()

    # Single steps.

    def _prepare(self, step: Step) -> Generator[Event, Any, None]:
        """What the step waits for."""
        if step.swapped_out:
            yield from self._link.transfer(step.swapped_out, to_host=True)
        if step.swapped_in:
            yield from self._link.transfer(step.swapped_in, to_host=False)
        for hook in self.hooks:
            yield from hook.before(step)

    def _begin(self, step: Step) -> _Begun:
        """Place a step as it was scheduled, and see how long it takes."""
        start = self._turn.now
        placement = self.policy.commit(step)
        work = work_of(step, placement)
        self.recorder.scanned.step(work, placement.runs)
        seconds = float(self._time_model.seconds(work))
        if self.scheduler.speculation is not None:
            seconds += self.scheduler.speculation.seconds(step, seconds)
        ticks = to_ticks(seconds)
        usage = self.policy.counted_usage() if self.exact_steps else self.policy.usage()
        self.recorder.occupied(usage, ticks)
        return _Begun(step, placement, start, ticks)

    def _end(self, begun: _Begun) -> None:
        """It is over."""
        step, ticks = begun.step, begun.ticks
        now = begun.start + ticks
        self.recorder.step(begun.start, now, step, begun.placement)
        for hook in self.hooks:
            hook.after(step)
        self._last_step = max(1, ticks)
        self._sample(now)
        parents = self._forking.parents_in(step)
        finished = self.scheduler.update(step)
        if parents:
            for parent, child in self._forking.fork(parents):
                self.recorder.forked(parent, child)
        self._choose_beams()
        self._finish(finished)

    def _drop_one(self) -> None:
        """Nothing can be scheduled and nothing will change that: give up whoever is first."""
        seq = [*self.scheduler.waiting, *self.scheduler.running][0]
        self.scheduler.abort(seq)
        self._fail(seq, "no room could be made for it")

    def _fail(self, seq: Sequence, reason: str) -> None:
        """Give up the request of a sequence that has left, and its other sequences with it."""
        request = seq.request
        if self._unfinished.pop(request.id, None) is None:
            return
        for other in [*self.scheduler.waiting, *self.scheduler.running]:
            if other.request is request:
                self.scheduler.abort(other)
        self._forking.forget(request)
        self._give_up(request, reason)

    # Runs of decode steps.

    def _plan(self) -> _Leap | None:
        """A run of decode steps and what they take, or None for a single step."""
        batch = self.scheduler.batch
        if self.exact_steps or self.policy.owes or not batch:
            return None
        if not self.recorder.are_streaming(batch):
            return None
        steps = min(self.scheduler.steady_steps(), LONGEST_RUN)
        change = self._forking.steps_to_change()
        if change is not None:
            steps = min(steps, change)
        if steps < 1:
            return None
        now, until = self._turn.now, self.recorder.samples.due
        event = NEVER if self._ignores_arrivals() else self._turn.next_event()
        if event != NEVER:
            arrival = to_ticks(event)
            steps = min(steps, (arrival - now) // self._last_step + 2)
            until = min(until, arrival)
        plan = self.policy.plan_run(batch, steps)
        if plan is None or (plan.tokens is not None and self._time_model.sees_prefills):
            return None
        # A step may start before the horizon, not at it; the step that reaches it is the last.
        if self._turn.is_alone:
            return _Leap(plan, priced(self._time_model, plan, batch, until - now), now)
        whole = priced(self._time_model, plan, batch, FOREVER)
        self._quiet = to_seconds(whole.spans.duration)
        completion = self._turn.next_completion()
        if completion != NEVER:
            until = min(until, to_ticks(completion))
        return _Leap(plan, whole.cut(until - now), now)

    def _ignores_arrivals(self) -> bool:
        """Whether arrivals change nothing, and nothing else can happen."""
        return self._turn.is_alone and not self.hooks and self.scheduler.ignores_arrivals

    def _begin_run(self, leap: _Leap) -> int:
        """Take the steps of the plan that were priced; ticks that they take."""
        spans = leap.taken.spans
        self.recorder.scanned.run(leap.taken, self.scheduler.batch)
        leap.plan.apply(spans.steps)
        self.scheduler.schedule_run(spans.steps)
        return spans.duration

    def _end_run(self, leap: _Leap) -> None:
        """They are over."""
        spans, batch = leap.taken.spans, self.scheduler.batch
        refusals = self.scheduler.refusals_per_step * spans.steps
        self.recorder.run(leap.start, spans, size_of(batch), leap.plan, refusals)
        self._last_step = max(1, spans.duration // spans.steps)
        self._sample(leap.start + spans.duration)
        finished = self.scheduler.update_run(spans.steps)
        self._choose_beams()
        self._finish(finished)

    def _choose_beams(self) -> None:
        for dead, _, child in self._forking.choose_beams():
            self.recorder.replaced(dead, child)

    def _sample(self, now: int) -> None:
        """Let the recorder look at the caches before finished sequences leave them."""
        if now >= self.recorder.samples.due:
            self.recorder.sample(now, len(self.scheduler.running), len(self.scheduler.waiting))

    # Ends.

    def _finish(self, finished: list[Sequence]) -> None:
        """Record finished sequences; a request is completed with its last sample."""
        now = self._env.now
        for seq in finished:
            self.recorder.finished(seq, now)
            request = seq.request
            self._unfinished[request.id] -= 1
            if not self._unfinished[request.id]:
                del self._unfinished[request.id]
                self._on_completed(request, now)
