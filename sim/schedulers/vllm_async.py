"""vLLM's asynchronous scheduling: every step is decided while the one before it still runs.

On by default since vLLM 0.14. ``EngineCore.step_with_batch_queue`` keeps two steps in flight: when
step k ends it takes in its tokens and what has arrived, and decides step k + 2; step k + 1 runs
already. How many tokens a step brings is known before it ends, so the decisions are those of
synchronous scheduling on what was known one step earlier.
"""

from __future__ import annotations

from sim.policies.base import Policy
from sim.schedulers.base import Scheduler
from sim.schedulers.runs import Chunks
from sim.schedulers.vllm import VllmScheduler, urgency
from sim.schedulers.vllm_options import VllmOptions
from sim.sequence import Sequence, Status
from sim.speculation import Speculation
from sim.step import Step


class AsyncVllmScheduler(VllmScheduler):
    """`VllmScheduler` one step behind.

    A step is decided here when it begins rather than when the one before it began, which is the
    same if nothing of what happened in between is looked at. So sequences that arrive, and the
    slots and blocks of sequences that end, count only once the step after has been decided. An
    idle engine sees arrivals at once. A sequence whose last token is on its way still counts as
    running: where room is wanted it may be the one to be preempted, and ends earlier for it.
    What was sampled enters the prefix cache one step later too (`Policy.hear_late`).
    """

    name = "vllm-async"

    def __init__(self, policy: Policy, options: VllmOptions | None = None) -> None:
        super().__init__(policy, options)
        policy.hear_late()
        self._arrived: list[Sequence] = []
        self._ended: list[Sequence] = []
        self.overtaken: list[Sequence] = []
        """Who was preempted in this step with its last token on its way."""

    def speculate(self, speculation: Speculation) -> None:
        """Refused: how many tokens a step brings must be known before it ends."""
        Scheduler.speculate(self, speculation)

    @property
    def has_work(self) -> bool:
        """Whether any sequence waits or runs, or a step is still to take notice of one."""
        return super().has_work or bool(self._arrived or self._ended)

    @property
    def _has_slot(self) -> bool:
        return len(self._running) + len(self._ended) < self.options.max_seqs

    def add(self, seq: Sequence) -> None:
        """Let a new sequence wait, unseen until the next step is decided."""
        if self._running or self._ended:
            self._arrived.append(seq)
        else:
            super().add(seq)

    def abort(self, seq: Sequence) -> None:
        """Drop a sequence and what it holds."""
        if seq in self._arrived:
            self._arrived.remove(seq)
            seq.status = Status.FAILED
        else:
            super().abort(seq)

    def schedule(self) -> Step:
        """The next step, on what was known before the last one ended; then what is known now."""
        self.overtaken.clear()
        step = super().schedule()
        if self._ended:
            self._turned_away = None
        for seq in self._ended:
            self.policy.hear_all(seq)
            self.policy.release(seq)
        self._ended.clear()
        for seq in self._arrived:
            super().add(seq)
        self._arrived.clear()
        return step

    def _victim(self) -> Sequence:
        running = super()._victim()
        if not self._ended:
            return running
        return max((running, *self._ended), key=urgency if self._by_priority else _rank)

    def _preempt(self, seq: Sequence, step: Step) -> None:
        if seq.status is not Status.FINISHED:
            super()._preempt(seq, step)
            return
        self.overtaken.append(seq)
        self._ended.remove(seq)
        self.policy.release(seq)

    def _passed_over(self, victim: Sequence, seq: Sequence) -> int:
        """One: vLLM's loop goes on by index in a list in which ``victim`` still was."""
        return int(victim.status is Status.FINISHED and victim.rank < seq.rank)

    def _admit(self, step: Step, chunks: Chunks, budget: int) -> None:
        """Nobody is admitted in a step in which somebody was preempted."""
        if not self.overtaken:
            super()._admit(step, chunks, budget)

    def _finish_all(self, finished: list[tuple[int, Sequence]]) -> list[Sequence]:
        for _, seq in finished:
            self._leave(seq)
            seq.status = Status.FINISHED
            self._ended.append(seq)
        return [seq for _, seq in finished]

    @property
    def ignores_arrivals(self) -> bool:
        """Not in the step that takes notice of them."""
        return False

    def steady_steps(self) -> int:
        """As ever, but for the step that still knows nothing of an arrival or an end."""
        return 0 if self._arrived or self._ended else super().steady_steps()


def _rank(seq: Sequence) -> int:
    """Its place in the order of admission."""
    return seq.rank
