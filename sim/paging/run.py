"""Runs of decode steps of a paged cache, planned as arrays and taken at once.

Which blocks are taken, in which order, is the same as in single steps: a plan is applied by
visiting, step after step, the sequences for which something is due.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from collections.abc import Sequence as SequenceOf
from functools import cached_property

from sim.errors import IntegrityError
from sim.policies.base import DecodeRun, Policy, Usage
from sim.schedulers.batch import DecodeBatch, Ranked
from sim.sequence import Sequence
from sim.step import Reads

Due = Callable[[int], list[Ranked]]
"""Sequences that are due so many steps from now, in running order."""


class PagedRun(DecodeRun):
    """A plan.

    look: makes reads and usage, when somebody asks for either before the plan is applied.
    visit: does one sequence's part of one step, given its length. done: so many steps were taken.
    """

    def __init__(
        self,
        steps: int,
        look: Callable[[], tuple[tuple[Reads, ...], tuple[Usage, ...]]],
        due: Due,
        visit: Callable[[Sequence, int], None],
        done: Callable[[int], None],
    ) -> None:
        self.steps = steps
        self._look = look
        self._due = due
        self._visit = visit
        self._done = done
        self._applied = False

    @cached_property
    def _seen(self) -> tuple[tuple[Reads, ...], tuple[Usage, ...]]:
        if self._applied:
            raise IntegrityError("a plan was looked at for the first time after it was applied")
        return self._look()

    @cached_property
    def reads(self) -> tuple[Reads, ...]:  # type: ignore[override]  # made when asked for
        """Whole blocks and live pairs, per layer group."""
        return self._seen[0]

    @cached_property
    def usage(self) -> tuple[Usage, ...]:  # type: ignore[override]  # made when asked for
        """The pool's."""
        return self._seen[1]

    def apply(self, steps: int) -> None:
        """Take and give back blocks as the steps would, in the same order."""
        due, visit = self._due, self._visit
        self._applied = True
        for step in range(steps):
            for _, seq in due(step):
                visit(seq, seq.computed + step)
        self._done(steps)


def steps_with_room(
    due: Due, steps: int, sequences: int, block_sizes: SequenceOf[int], free: int
) -> int:
    """How many steps find room where decoding sequences take blocks and drop none."""
    if sum(-(-steps // size) for size in block_sizes) * sequences <= free:
        return steps
    for step in range(steps):
        for _, seq in due(step):
            length = seq.computed + step
            free -= sum(length % size == 0 for size in block_sizes)
        if free < 0:
            return step
    return steps


def due_in(policy: Policy, seqs: SequenceOf[Sequence]) -> Due:
    """When the members of a decode batch, or of any list in running order, are due."""
    if isinstance(seqs, DecodeBatch):
        return seqs.due
    slots: dict[int, list[Ranked]] = defaultdict(list)
    for rank, seq in enumerate(seqs):
        for residue in policy.due_residues(seq):
            slots[(residue - seq.computed) % policy.period].append((rank, seq))
    return lambda step: slots.get(step % policy.period, [])
