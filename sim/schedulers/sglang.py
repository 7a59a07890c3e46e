"""SGLang's scheduler: longest cached prefix first, prompts before decodes, admission by estimate.

Source: ``python/sglang/srt/managers/schedule_policy.py`` (``SchedulePolicy``, ``PrefillAdder``),
``schedule_batch.py`` (``retract_decode``), ``scheduler.py``; constants: ``environ.py``. As of 2026.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from sim.policies.base import Policy
from sim.schedulers.base import Scheduler
from sim.sequence import Sequence, Status
from sim.step import Run, Step
from workloads.errors import InputError
from workloads.plugins import option

FIRST_RATIO, LAST_SHARE, RATIO_STEPS = 0.7, 0.14, 600
"""New-token ratio at the start, the least as a share of it, decode steps from one to the other."""
CLIPPED_OUTPUT = 4096
"""Most tokens still to come that the estimate counts for one request."""
RETRACT_STEPS = 20
"""Decode steps that there is to be room for after requests were retracted."""
SORTED_WAITING = 128
"""With more requests waiting than this, they are taken in order of arrival."""
ESTIMATE, SLOTS = "estimate", "slots"
"""Reasons of a refusal: the estimate says no; the policy has no room for the tokens."""


class SglangScheduler(Scheduler):
    """Steps of prompts while there are any to be admitted, steps of decodes otherwise.

    A request is admitted if its prompt and its output fit beside what all running requests are
    estimated to grow by: their remaining tokens times a ratio that falls with every decode step,
    and rises when requests had to be retracted.
    """

    name = "sglang"

    @dataclass(frozen=True)
    class Options:
        """The server's flags of the same meaning."""

        max_seqs: int = option(256, "sequences that run at once", low=1)
        max_batched_tokens: int = option(8192, "tokens of one step (chunked_prefill_size)", low=1)
        order: Literal["lpm", "fcfs"] = option(
            "lpm", "longest cached prefix first, or first come first served (schedule_policy)"
        )
        conservativeness: float = option(
            1.0, "factor on the ratio of new tokens (schedule_conservativeness)", low=0.0, high=10.0
        )

    def __init__(self, policy: Policy, options: Options | None = None) -> None:
        """Raises `InputError` for a model that keeps states alone, which has no tokens to count."""
        if not sum(policy.cell_bytes):
            raise InputError(
                f"sglang: {policy.budget.model.name} has no attention; expected a model whose "
                "memory is counted in tokens"
            )
        self.policy = policy
        self.options = self.Options() if options is None else options
        self._waiting: list[Sequence] = []
        self._running: list[Sequence] = []
        self._chunked: Sequence | None = None
        """The running sequence whose prompt is not complete."""
        self._first_ratio = min(1.0, FIRST_RATIO * self.options.conservativeness)
        self._ratio_at, self._ratio_age = self._first_ratio, 0
        self._ranks = 0

    @property
    def waiting(self) -> Collection[Sequence]:
        """As they came, the retracted ones last; steps of prompts take them in their own order."""
        return self._waiting

    @property
    def running(self) -> list[Sequence]:
        """Admitted sequences, in order of admission; not to be changed."""
        return self._running

    @property
    def batch(self) -> list[Sequence]:
        """The running sequences that decode: all but one whose prompt was cut."""
        return [seq for seq in self._running if seq is not self._chunked]

    @property
    def new_token_ratio(self) -> float:
        """Share of the tokens still to come that running requests are expected to bring."""
        least = self._first_ratio * LAST_SHARE
        falling = (self._first_ratio - least) / RATIO_STEPS
        return max(least, self._ratio_at - self._ratio_age * falling)

    # Coming and going.

    def add(self, seq: Sequence) -> None:
        """Let a new sequence wait."""
        self._waiting.append(seq)

    def abort(self, seq: Sequence) -> None:
        """Drop a sequence and what it holds; `ValueError` if it neither waits nor runs."""
        if seq.status is Status.RUNNING:
            self._leave(seq)
        else:
            self._waiting.remove(seq)
            self.policy.release(seq)
        seq.status = Status.FAILED

    def fork(self, parent: Sequence, child: Sequence) -> bool:
        """Let ``child`` run on from where ``parent`` is, sharing what it holds."""
        if len(self._running) >= self.options.max_seqs or not self.policy.fork(parent, child):
            return False
        child.tokens, child.computed = parent.tokens, parent.computed
        self._run(child)
        return True

    def _run(self, seq: Sequence) -> None:
        self._ranks += 1
        seq.rank = self._ranks
        seq.status = Status.RUNNING
        self._running.append(seq)

    def _leave(self, seq: Sequence) -> None:
        self._running.remove(seq)
        if seq is self._chunked:
            self._chunked = None
        self.policy.release(seq)

    # One step.

    def schedule(self) -> Step:
        """Prompts if any can be computed, else one token of everybody that decodes."""
        step = Step()
        runs = self._prompts(step)
        if not runs:
            runs = self._decodes(step)
        for seq, _, n in runs:
            seq.computed += n
        step.runs = runs
        return step

    def _prompts(self, step: Step) -> list[Run]:
        """The rest of a prompt that was cut, then waiting requests up to the first refused."""
        runs: list[Run] = []
        budget = self.options.max_batched_tokens
        if self._chunked is not None:
            n = self._grow(self._chunked, 0, budget, step)
            if not n:
                return []
            runs.append(Run(self._chunked, self._chunked.computed, n))
            budget -= n
        room = self._estimated_room() if self._waiting else 0.0
        for seq in self._in_order():
            if not budget or self._chunked_is_cut(runs):
                break
            if len(self._running) >= self.options.max_seqs:
                break
            hit = self.policy.lookup(seq)
            needed = seq.tokens - hit + self._to_come(seq)
            if needed >= room and self._running:
                step.refused.append((seq, ESTIMATE))
                break
            n = self._grow(seq, hit, budget, step)
            if not n:
                break
            room -= needed
            self._admit(seq, hit, step)
            runs.append(Run(seq, hit, n))
            budget -= n
        return runs

    def _chunked_is_cut(self, runs: list[Run]) -> bool:
        """Whether the last prompt of the step does not end in it; nobody comes behind it."""
        return bool(runs) and runs[-1].start + runs[-1].n < runs[-1].seq.tokens

    def _admit(self, seq: Sequence, hit: int, step: Step) -> None:
        self._waiting.remove(seq)
        seq.computed = hit
        if not seq.preemptions:
            seq.hit = hit
        (step.resumed if seq.preemptions else step.admitted).append(seq)
        self._run(seq)

    def _grow(self, seq: Sequence, hit: int, budget: int, step: Step) -> int:
        """Room for the next tokens of a prompt; how many, 0 for none."""
        done = hit or seq.computed
        n = self.policy.chunk_of(seq, done, min(seq.tokens - done, budget))
        if not n:
            return 0
        if not self.policy.can_admit(seq, hit) or not self.policy.allocate(seq, n, hit):
            step.refused.append((seq, SLOTS))
            return 0
        return n

    def _in_order(self) -> list[Sequence]:
        """Waiting requests by their cached prefix, the longest first; by arrival among equals."""
        if self.options.order == "fcfs" or len(self._waiting) > SORTED_WAITING:
            return list(self._waiting)
        return sorted(self._waiting, key=lambda seq: -self.policy.lookup(seq))

    def _estimated_room(self) -> float:
        """Tokens that are free, less those that running requests are expected to need."""
        free = sum(int(part.free) * part.cell_bytes for part in self.policy.usage())
        coming = sum(self._to_come(seq) for seq in self._running)
        return free / sum(self.policy.cell_bytes) - coming * self.new_token_ratio

    def _to_come(self, seq: Sequence) -> int:
        return min(seq.limit - seq.tokens, CLIPPED_OUTPUT)

    def _decodes(self, step: Step) -> list[Run]:
        """One token of everybody; who has the least output gives way where there is no room."""
        for seq in self.batch:
            while seq.status is Status.RUNNING and not self.policy.allocate(seq, 1):
                step.refused.append((seq, SLOTS))
                self._retract(step)
        if step.preempted:
            left = self.batch
            expected = sum(seq.tokens - seq.prompt + RETRACT_STEPS for seq in left)
            most = sum(seq.limit - seq.prompt for seq in left)
            self._ratio_at, self._ratio_age = min(1.0, expected / (most + 1)), 0
        else:
            self._ratio_age += 1
        return [Run(seq, seq.computed, 1) for seq in self.batch]

    def _retract(self, step: Step) -> None:
        """Take everything back from the request with the least output, and let it wait."""
        seq = min(self.batch, key=lambda seq: (seq.tokens - seq.prompt, -seq.prompt))
        self._leave(seq)
        seq.status = Status.PREEMPTED
        seq.preemptions += 1
        seq.high = max(seq.high, seq.computed)
        seq.computed = 0
        step.preempted.append(seq)
        self._waiting.append(seq)

    # The end of a step.

    def update(self, step: Step) -> list[Sequence]:
        """Sample; a prompt that was cut is gone on with before anybody else is admitted."""
        for seq, _, _ in step.runs:
            if seq.computed < seq.tokens:
                self._chunked = seq
                continue
            seq.tokens += 1
            if seq is self._chunked:
                self._chunked = None
        return self._finish()

    def _finish(self) -> list[Sequence]:
        finished = [seq for seq in self._running if seq.tokens >= seq.limit]
        for seq in finished:
            self._leave(seq)
            seq.status = Status.FINISHED
        return finished

    # Steady steps.

    @property
    def refusals_per_step(self) -> int:
        """0: there are no steady steps while anybody could be refused."""
        return 0

    def steady_steps(self) -> int:
        """Steps up to the first end, if all decode and nobody waits who might be admitted.

        The estimate changes with every step, so none is steady while a request waits for it.
        """
        if self._chunked is not None or not self._running:
            return 0
        if self._waiting and len(self._running) < self.options.max_seqs:
            return 0
        return min(seq.limit - seq.tokens for seq in self._running)

    def schedule_run(self, steps: int) -> None:
        """Take steady steps at once."""
        self._ratio_age += steps
        for seq in self._running:
            seq.computed += steps

    def update_run(self, steps: int) -> list[Sequence]:
        """Sample what they computed, and release what is finished after the last."""
        for seq in self._running:
            seq.tokens += steps
        return self._finish()
