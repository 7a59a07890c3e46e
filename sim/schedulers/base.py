"""The interface of a scheduler.

The engine adds sequences as they arrive and then, step after step, lets the scheduler decide and
tells it when the step is over. Where several steps in a row would decide the same, it may have
them at once::

    step = scheduler.schedule()             # a single step; the policy's `commit` follows
    finished = scheduler.update(step)       # its tokens are known

    n = scheduler.steady_steps()            # or: so many steps differ in nothing but counters
    plan = policy.plan_run(scheduler.batch, n)
    plan.apply(k); scheduler.schedule_run(k)             # with k <= plan.steps
    finished = scheduler.update_run(k)                   # their tokens are known
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from collections.abc import Sequence as SequenceOf
from typing import ClassVar

from sim.compiled import mypyc_attr
from sim.policies.base import Policy
from sim.sequence import Sequence
from sim.speculation import Speculation
from sim.step import Step
from workloads.errors import InputError


@mypyc_attr(allow_interpreted_subclasses=True)
class Scheduler(ABC):
    """Base class of all schedulers."""

    name: ClassVar[str]
    takes_over: ClassVar[bool] = False
    """Whether it admits sequences whose prompt another replica has computed."""
    visits_each: bool = False
    """Whether single steps look at every sequence that decodes, and trust nothing that is kept."""
    policy: Policy
    speculation: Speculation | None = None
    """Drafts for the sequences that decode, once `speculate` was called."""

    @property
    @abstractmethod
    def waiting(self) -> Collection[Sequence]:
        """Sequences that wait, in the order in which they would be admitted."""

    @property
    @abstractmethod
    def running(self) -> SequenceOf[Sequence]:
        """Admitted sequences, in order of admission."""

    @property
    @abstractmethod
    def batch(self) -> SequenceOf[Sequence]:
        """Those of the running sequences that take one token in every step."""

    @property
    def has_work(self) -> bool:
        """Whether any sequence waits or runs."""
        return bool(self.running) or bool(self.waiting)

    @property
    def retained(self) -> Collection[int]:
        """Ids of sequences that have left and whose K/V the scheduler keeps for later ones."""
        return ()

    def forget(self) -> int:
        """Drop what `retained` names; of how many sequences."""
        return 0

    @property
    def counts(self) -> Mapping[str, int]:
        """What the scheduler has counted beyond the steps, by the name of the metric."""
        return {}

    def speculate(self, speculation: Speculation) -> None:
        """Verify drafts from the next step on; to be called before the first sequence is added.

        Raises `InputError` where this scheduler or its policy cannot.
        """
        raise InputError(
            f"speculation: scheduler {self.name!r} verifies no drafts; expected vllm or one derived"
            " from it, or llama-server"
        )

    def misfit_of(self, seq: Sequence) -> str:
        """Why ``seq`` can never be served, in a few words; empty if it can be."""
        longest = self.policy.budget.max_model_len
        if seq.limit > longest:
            return f"longer than the longest sequence allowed ({longest} tokens)"
        return "" if self.policy.can_ever_hold(seq) else "does not fit into the empty cache"

    @abstractmethod
    def add(self, seq: Sequence) -> None:
        """Let a new sequence wait."""

    @abstractmethod
    def abort(self, seq: Sequence) -> None:
        """Drop a sequence that waits or runs, and what it holds; not between step and update."""

    @abstractmethod
    def fork(self, parent: Sequence, child: Sequence) -> bool:
        """Let ``child`` run on from where the running ``parent`` is; False where it cannot."""

    @abstractmethod
    def schedule(self) -> Step:
        """Decide the next step and make the policy allocate and release what it takes.

        ``computed`` of the sequences counts the tokens of the step from then on.
        """

    @abstractmethod
    def update(self, step: Step) -> list[Sequence]:
        """The step is over: sample, and release finished sequences, which are returned in order.

        Every sequence all of whose tokens are computed gets one more token.
        """

    @property
    @abstractmethod
    def refusals_per_step(self) -> int:
        """How many waiting sequences every step of a steady run would refuse (0 or 1)."""

    @abstractmethod
    def steady_steps(self) -> int:
        """How many steps would do nothing but let all running sequences decode; 0 if not even one.

        The last of them may be the one in which sequences finish.
        """

    @property
    def ignores_arrivals(self) -> bool:
        """Whether steady steps stay as they are, whoever arrives meanwhile."""
        return False

    @abstractmethod
    def schedule_run(self, steps: int) -> None:
        """Decide on ``steps`` steady steps at once, as `schedule` does on one."""

    @abstractmethod
    def update_run(self, steps: int) -> list[Sequence]:
        """They are over: sample, and release finished sequences, which are returned in order."""
