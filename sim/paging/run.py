"""Runs of decode steps of a paged cache, planned as arrays and taken at once.

Which blocks are taken, in which order, is the same as in single steps: a plan is applied by
visiting, step after step, the sequences for which something is due.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from collections.abc import Sequence as SequenceOf

from sim.policies.base import DecodeRun, Policy, Usage
from sim.schedulers.batch import DecodeBatch, Ranked
from sim.sequence import Sequence
from sim.step import Reads

Due = Callable[[int], list[Ranked]]
"""Sequences that are due so many steps from now, in running order."""


class PagedRun(DecodeRun):
    """A plan; ``visit(seq, computed)`` does one sequence's part of one step."""

    def __init__(
        self,
        steps: int,
        reads: tuple[Reads, ...],
        usage: Usage,
        due: Due,
        visit: Callable[[Sequence, int], None],
        done: Callable[[int], None],
    ) -> None:
        self.steps = steps
        self.reads = reads
        self.usage = (usage,)
        self._due = due
        self._visit = visit
        self._done = done

    def apply(self, steps: int) -> None:
        """Take and give back blocks as the steps would, in the same order."""
        due, visit = self._due, self._visit
        for step in range(steps):
            for _, seq in due(step):
                visit(seq, seq.computed + step)
        self._done(steps)


def due_in(policy: Policy, seqs: SequenceOf[Sequence]) -> Due:
    """When the members of a decode batch, or of any list in running order, are due."""
    if isinstance(seqs, DecodeBatch):
        return seqs.due
    slots: dict[int, list[Ranked]] = defaultdict(list)
    for rank, seq in enumerate(seqs):
        for residue in policy.due_residues(seq):
            slots[(residue - seq.computed) % policy.period].append((rank, seq))
    return lambda step: slots.get(step % policy.period, [])
