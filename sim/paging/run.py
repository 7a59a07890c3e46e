"""Runs of decode steps of a paged cache, planned as arrays and taken at once.

Which blocks are taken, in which order, is the same as in single steps: a plan is applied by
visiting, step after step, the sequences for which something is due.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as SequenceOf
from typing import Protocol

from sim.decode_run import DecodeRun
from sim.policies.base import Policy
from sim.schedulers.batch import DecodeBatch
from sim.schedulers.calendar import Calendar, Due, Ranked
from sim.sequence import Sequence
from sim.step import Reads
from sim.usage import Usage


class Members(Protocol):
    """Who is due so many steps from now, in running order."""

    def due(self, ahead: int, /) -> list[Ranked]:
        """At one step."""

    def agenda(self, residue: int, /) -> list[Due]:
        """At all steps of the policy's next period, see `Calendar.agenda`."""


class _Listed:
    """Sequences that stand still at the first step of the run."""

    def __init__(self, calendar: Calendar) -> None:
        self._calendar = calendar

    def due(self, ahead: int) -> list[Ranked]:
        return self._calendar.due(ahead)

    def agenda(self, residue: int) -> list[Due]:
        return self._calendar.agenda(0, residue)


class PagedRun(DecodeRun):
    """A plan.

    look: makes reads and usage. visit: does one sequence's part of one step, given its length.
    done: so many steps were taken.
    """

    def __init__(
        self,
        steps: int,
        look: tuple[Callable[[], tuple[Reads, ...]], Callable[[], tuple[Usage, ...]]],
        due: Members,
        visit: Callable[[Sequence, int], None],
        done: Callable[[int], None],
    ) -> None:
        super().__init__(steps)
        self._look = look
        self._due = due
        self._visit = visit
        self._done = done

    def _foreseen_reads(self) -> tuple[Reads, ...]:
        """Whole blocks and live pairs, per layer group."""
        return self._look[0]()

    def _foreseen_usage(self) -> tuple[Usage, ...]:
        """The pool's."""
        return self._look[1]()

    def _adds_up_usage(self) -> bool:
        """Nobody prices or records steps whose reads he has not asked for."""
        return self._reads is not None

    def _apply(self, steps: int) -> None:
        """Take and give back blocks as the steps would, in the same order."""
        due, visit = self._due.due, self._visit
        for step in range(steps):
            for _, seq in due(step):
                visit(seq, seq.computed + step)
        self._done(steps)


def due_in(policy: Policy, seqs: SequenceOf[Sequence]) -> Members:
    """When the members of a decode batch, or of any list in running order, are due."""
    if isinstance(seqs, DecodeBatch):
        return seqs
    calendar = Calendar(policy.period)
    for rank, seq in enumerate(seqs):
        calendar.add(rank, seq, policy.due_residues(seq), -seq.computed)
    return _Listed(calendar)
