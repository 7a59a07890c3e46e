"""vLLM 0.19's scheduler: running sequences first, one token budget, preemption of the last.

Source: ``vllm/v1/core/sched/scheduler.py`` (synchronous). It asks any policy, so the same
scheduling can be compared over all of them.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Mapping
from typing import ClassVar

from sim.compiled import mypyc_attr
from sim.policies.base import Policy
from sim.schedulers.base import Scheduler
from sim.schedulers.batch import DecodeBatch
from sim.schedulers.calendar import Ranked
from sim.schedulers.queues import FcfsQueue, PriorityQueue, WaitingQueue
from sim.schedulers.runs import BatchRuns, Chunks
from sim.schedulers.vllm_options import VllmOptions
from sim.sequence import Sequence, Status
from sim.speculation import Speculation
from sim.step import Draft, Step

GATE, SLOTS, SWAP = "gate", "slots", "swap"
"""Reasons of a refusal: the policy's gate, no room for the tokens, no room to swap back in."""


@mypyc_attr(allow_interpreted_subclasses=True)
class VllmScheduler(Scheduler):
    """Continuous batching with chunked prefill.

    Decoding sequences are scheduled as one batch. Only those that are due in the policy's eyes,
    and those that prefill, are visited one by one; where order decides who gets what is left of
    the budget or of the memory, all are.
    """

    name = "vllm"
    takes_over = True

    Options: ClassVar[type[VllmOptions]] = VllmOptions

    def __init__(self, policy: Policy, options: VllmOptions | None = None) -> None:
        self.policy = policy
        self.options = self.Options() if options is None else options
        self._by_priority = self.options.policy == "priority"
        self._preempts_the_last = not self._by_priority
        self._waiting: WaitingQueue = PriorityQueue() if self._by_priority else FcfsQueue()
        self._running: list[Sequence] = []
        self._batch = DecodeBatch(policy)
        self._others: list[Sequence] = []
        """Running sequences that are not in the batch, in running order."""
        self._turned_away: Sequence | None = None
        """The waiting sequence that the last step refused for want of memory."""
        self._last_rank = 0

    @property
    def waiting(self) -> WaitingQueue:
        """Sequences that wait, in the order in which they would be admitted; not to be changed."""
        return self._waiting

    @property
    def running(self) -> list[Sequence]:
        """Admitted sequences, in order of admission; not to be changed."""
        return self._running

    @property
    def batch(self) -> DecodeBatch:
        """The running sequences that take one token in every step."""
        return self._batch

    @property
    def has_work(self) -> bool:
        """Whether any sequence waits or runs."""
        return bool(self._running) or not self._waiting.is_empty

    @property
    def _has_slot(self) -> bool:
        """Whether one more sequence may run."""
        return len(self._running) < self.options.max_seqs

    @property
    def counts(self) -> Mapping[str, int]:
        """What became of drafts."""
        return {} if self.speculation is None else self.speculation.counts

    def speculate(self, speculation: Speculation) -> None:
        """Verify drafts from the next step on; sequences that decode are then visited singly."""
        self.policy.speculate(speculation.tokens, speculation.lookahead)
        self.speculation = speculation

    # Coming and going.

    def add(self, seq: Sequence) -> None:
        """Let a new sequence wait."""
        self._waiting.push(seq)

    def abort(self, seq: Sequence) -> None:
        """Drop a sequence and what it holds; `ValueError` if it neither waits nor runs."""
        if seq.status is Status.RUNNING:
            self._leave(seq)
        else:
            self._waiting.remove(seq)
        seq.status = Status.FAILED
        self.policy.release(seq)
        self._turned_away = None

    def fork(self, parent: Sequence, child: Sequence) -> bool:
        """Let ``child`` run on from where ``parent`` is, sharing what it holds."""
        if not self._has_slot or not self.policy.fork(parent, child):
            return False
        child.tokens, child.computed = parent.tokens, parent.computed
        child.drafts = parent.drafts
        self._run(child)
        if parent in self._batch:
            self._set_apart(parent)
        return True

    def _set_apart(self, seq: Sequence) -> None:
        """Take a member out of the batch, to be visited by itself."""
        self._batch.leave(seq)
        insort(self._others, seq, key=lambda other: other.rank)

    def _run(self, seq: Sequence) -> None:
        """Append to the running sequences."""
        self._last_rank += 1
        seq.rank = self._last_rank
        seq.status = Status.RUNNING
        self._running.append(seq)
        self._others.append(seq)

    def _leave(self, seq: Sequence) -> None:
        """Take out of the running sequences."""
        self._running.remove(seq)
        if seq in self._batch:
            self._batch.leave(seq)
        else:
            self._others.remove(seq)

    def _victim(self) -> Sequence:
        """Who is preempted next: the last that runs, or by priority the least urgent."""
        return max(self._running, key=urgency) if self._by_priority else self._running[-1]

    def _preempt(self, seq: Sequence, step: Step) -> None:
        self._leave(seq)
        seq.preemptions += 1
        seq.drafts = 0
        seq.high = max(seq.high, seq.computed)
        if self.options.preemption == "swap":
            seq.status = Status.SWAPPED
            step.swapped_out += self.policy.swap_out(seq)
        else:
            seq.status = Status.PREEMPTED
            self.policy.release(seq)
            seq.computed = 0
        self._waiting.put_back(seq)
        step.preempted.append(seq)

    # One step.

    def schedule(self) -> Step:
        """Running sequences first; waiting ones if nobody had to be preempted."""
        step = Step()
        self._turned_away = None
        chunks, budget = self._schedule_running(step)
        if not step.preempted:
            self._admit(step, chunks, budget)
        runs = BatchRuns(self._batch, self._running, chunks)
        self._batch.clock.scheduled += 1
        for seq, n in chunks.values():
            seq.computed += n
        step.runs = runs[:] if self.visits_each else runs
        if self.speculation is not None:
            step.drafts = self.speculation.verify(chunks.values(), self._kept)
        return step

    def _schedule_running(self, step: Step) -> tuple[Chunks, int]:
        """Tokens of the running sequences outside the batch, and what is left of the budget.

        Members of the batch that are not due have room, so only their token is counted. That is
        exact as long as it does not matter in which order tokens are given out: all of the batch
        fits into the budget, and the others come after it. Where each is to be visited, all are
        asked as if none of that were known.
        """
        chunks: Chunks = {}
        batch, others = self._batch, self._others
        budget = self.options.max_batched_tokens - batch.size
        apart = others and self._running[-len(others)] is not others[0]
        if self.visits_each or budget < 0 or apart:
            return self._visit_all(step, 0, chunks, budget + batch.size)
        due = [] if self.policy.allocate_each(batch) else batch.due()
        for _, seq in [*due, *((other.rank, other) for other in others)]:
            if seq.status is not Status.RUNNING:
                continue
            is_member = seq.follows(batch.clock)
            n = 1 if is_member else self._wanted(seq, budget)
            if n == 0:
                continue
            while not self.policy.allocate(seq, n):
                if not self._preempts_the_last:
                    return self._resume_visits(step, seq, chunks)
                step.refused.append((seq, SLOTS))
                victim = self._victim()
                self._preempt(victim, step)
                if victim is seq:
                    break
            else:
                if not is_member:
                    chunks[seq.id] = (seq, n)
                    budget -= n
        return chunks, budget

    def _resume_visits(self, step: Step, seq: Sequence, chunks: Chunks) -> tuple[Chunks, int]:
        """Go on one by one from ``seq``, which found no room, with all before it scheduled."""
        index = self._running.index(seq)
        scheduled: Chunks = {}
        for before in self._running[:index]:
            if before in self._batch:
                scheduled[before.id] = (before, 1)
            elif before.id in chunks:
                scheduled[before.id] = chunks[before.id]
        spent = sum(n for _, n in scheduled.values())
        return self._visit_all(step, index, scheduled, self.options.max_batched_tokens - spent)

    def _visit_all(
        self, step: Step, index: int, scheduled: Chunks, budget: int
    ) -> tuple[Chunks, int]:
        """Visit every running sequence from ``index`` on; ``scheduled``: those before it."""
        running = self._running
        while index < len(running) and budget > 0:
            seq = running[index]
            n = self._wanted(seq, budget)
            if n == 0:
                index += 1
                continue
            while not self.policy.allocate(seq, n):
                step.refused.append((seq, SLOTS))
                victim = self._victim()
                if victim.id in scheduled:
                    budget += scheduled.pop(victim.id)[1]
                    index -= 1
                index += self._passed_over(victim, seq)
                self._preempt(victim, step)
                if victim is seq:
                    return self._without_batch(scheduled), budget
            scheduled[seq.id] = (seq, n)
            budget -= n
            index += 1
        return self._without_batch(scheduled), budget

    def _passed_over(self, victim: Sequence, seq: Sequence) -> int:
        """How many after ``seq`` are not visited since ``victim`` is taken out before it."""
        del victim, seq
        return 0

    def _without_batch(self, scheduled: Chunks) -> Chunks:
        """What is scheduled outside the batch, after those that got nothing have left it."""
        for seq in list(self._batch):
            if seq.id not in scheduled:
                self._set_apart(seq)
        return {i: (seq, n) for i, (seq, n) in scheduled.items() if seq not in self._batch}

    def _wanted(self, seq: Sequence, budget: int) -> int:
        """Tokens that a running sequence gets of what is left of the budget."""
        n = self._shortened(seq.tokens + seq.drafts - seq.computed)
        n = min(n, budget, self.options.max_model_len - 1 - seq.computed)
        return self.policy.chunk_of(seq, seq.computed, n) if n > 0 else 0

    def _shortened(self, n: int) -> int:
        threshold = self.options.long_prefill_threshold
        return threshold if 0 < threshold < n else n

    # Admission.

    def _admit(self, step: Step, chunks: Chunks, budget: int) -> None:
        """Admit waiting sequences in order, up to the first that cannot be."""
        waiting = self._waiting
        while budget > 0 and not waiting.is_empty and self._has_slot:
            seq = waiting.first()
            swapped = seq.status in (Status.SWAPPED, Status.HANDED_OVER)
            n = 0 if swapped else self._place(seq, step, budget)
            if not (self._swap_in(seq, step) if swapped else n):
                break
            waiting.pop()
            (step.resumed if seq.preemptions else step.admitted).append(seq)
            self._run(seq)
            if swapped:
                n = self._wanted(seq, budget)
                n = n if n and self.policy.allocate(seq, n) else 0
            if n:
                chunks[seq.id] = (seq, n)
                budget -= n

    def _place(self, seq: Sequence, step: Step, budget: int) -> int:
        """Give a waiting sequence room for its first tokens; how many, 0 if it has to wait on."""
        hit = self.policy.lookup(seq)
        n = self._shortened(seq.tokens - hit)
        if n > budget and not self.options.chunked_prefill:
            return 0
        n = self.policy.chunk_of(seq, hit, min(n, budget))
        if n == 0:
            return 0
        if not self.policy.can_admit(seq, hit):
            return self._turn_away(seq, step, GATE)
        if not self.policy.allocate(seq, n, hit):
            return self._turn_away(seq, step, SLOTS)
        seq.computed = hit
        if not seq.preemptions:
            seq.hit = hit
        return n

    def _swap_in(self, seq: Sequence, step: Step) -> bool:
        """Bring a sequence back from the host; it runs on in this step if there is room."""
        size = self.policy.swap_in(seq)
        if size is None:
            self._turn_away(seq, step, SWAP)
            return False
        if seq.status is Status.SWAPPED:
            step.swapped_in += size
        return True

    def _turn_away(self, seq: Sequence, step: Step, reason: str) -> int:
        step.refused.append((seq, reason))
        self._turned_away = seq
        return 0

    # The end of a step.

    def update(self, step: Step) -> list[Sequence]:
        """Sample, release what is finished; those that decode from now on join the batch."""
        self._batch.clock.sampled += 1
        finished = self._at_their_end() if self.visits_each else self._batch.ended()
        for seq in self._others:
            if seq.computed >= seq.tokens:
                seq.tokens += 1
                if step.drafts is not None:
                    self._settle(seq, step.drafts.get(seq.id))
                if seq.tokens >= self._end_of(seq):
                    finished.append((seq.rank, seq))
        ended = self._finish_all(sorted(finished))
        if self._others and self.speculation is None:
            self._join_those_that_decode()
        return ended

    def _at_their_end(self) -> list[Ranked]:
        """What `DecodeBatch.ended` knows, found by looking at every member."""
        return [(seq.rank, seq) for seq in self._batch if seq.tokens >= self._end_of(seq)]

    def _kept(self, seq: Sequence, accepted: int) -> int:
        """Tokens of a verified draft that come before the end of ``seq``."""
        return min(1 + accepted, self._end_of(seq) - seq.tokens)

    def _settle(self, seq: Sequence, draft: Draft | None) -> None:
        """Take over what was accepted of a draft, give up the rest, and draft anew."""
        assert self.speculation is not None
        if draft is not None:
            seq.tokens += draft.kept - 1
            if draft.rejected:
                seq.computed -= draft.rejected
                self.policy.take_back(seq, draft.rejected)
        seq.drafts = self.speculation.drafts_for(seq)

    def _finish_all(self, finished: list[tuple[int, Sequence]]) -> list[Sequence]:
        if finished:
            self._turned_away = None
        for _, seq in finished:
            self._leave(seq)
            seq.status = Status.FINISHED
            self.policy.release(seq)
        return [seq for _, seq in finished]

    def _join_those_that_decode(self) -> None:
        left = []
        for seq in self._others:
            end = self._end_of(seq)
            if seq.is_decoding and end <= self.options.max_model_len:
                self._batch.join(seq, end)
            else:
                left.append(seq)
        self._others = left

    def _end_of(self, seq: Sequence) -> int:
        """The length at which a sequence is finished.

        The longest length allowed ends it only once it has its ``min_tokens``; if those reach
        further, it stays for ever, with nothing to schedule.
        """
        return max(min(seq.limit, self.options.max_model_len), seq.prompt + seq.min_tokens)

    # Steady steps.

    @property
    def refusals_per_step(self) -> int:
        """1 while a waiting sequence is tried and refused in every step."""
        return int(self._turned_away is not None and not self._nobody_is_tried())

    def steady_steps(self) -> int:
        """Steps up to the first end of a sequence, if all decode and nobody can be admitted."""
        batch = self._batch
        if self._others or not batch.size or batch.size > self.options.max_batched_tokens:
            return 0
        return batch.steps_to_end() if self._nobody_comes() else 0

    @property
    def ignores_arrivals(self) -> bool:
        """Whoever comes is not tried, or has to wait for one who is refused."""
        if not self._has_slot:
            return True
        return self._waiting.keeps_order and not self._waiting.is_empty

    def _nobody_comes(self) -> bool:
        if self._nobody_is_tried():
            return True
        first = self._waiting.first()
        if first is not self._turned_away:
            if not self._would_be_refused(first):
                return False
            self._turned_away = first
        return self.policy.stays_refused(first)

    def _would_be_refused(self, seq: Sequence) -> bool:
        """Whether a step that began now would try ``seq`` and turn it away."""
        if seq.status in (Status.SWAPPED, Status.HANDED_OVER):
            return False
        decoding = self._batch.size
        budget = self.options.max_batched_tokens - decoding
        n = self._shortened(seq.tokens)
        if n > budget and not self.options.chunked_prefill:
            return False
        n = self.policy.chunk_of(seq, 0, min(n, budget))
        return n > 0 and self.policy.would_refuse(seq, n, decoding)

    def _nobody_is_tried(self) -> bool:
        """Whether a steady step would not even look at who waits."""
        if self._waiting.is_empty or not self._has_slot:
            return True
        return self._batch.size == self.options.max_batched_tokens

    def schedule_run(self, steps: int) -> None:
        """Take steady steps at once."""
        self._batch.clock.scheduled += steps

    def update_run(self, steps: int) -> list[Sequence]:
        """Sample what they computed, and release what is finished after the last."""
        self._batch.clock.sampled += steps
        return self._finish_all(self._batch.ended())


def urgency(seq: Sequence) -> tuple[int, float]:
    """Who is to be preempted first has most of it."""
    return (seq.priority, seq.arrival)
