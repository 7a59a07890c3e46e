"""Who is due in a run of decode steps of a paged cache.

Which blocks are taken, in which order, is the same as in single steps: a plan is applied by
visiting, step after step, the sequences for which something is due.
"""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf
from typing import Protocol

from sim.policies.base import Policy
from sim.schedulers.batch import DecodeBatch
from sim.schedulers.calendar import Agenda, Calendar, Ranked
from sim.sequence import Sequence


class Members(Protocol):
    """Who is due so many steps from now, in running order."""

    def due(self, ahead: int, /) -> list[Ranked]:
        """At one step."""

    def agenda(self, steps: int, begin: bool, /) -> Agenda:
        """In all of so many steps, see `Calendar.agenda`."""


class _Listed:
    """Sequences that stand still at the first step of the run."""

    def __init__(self, calendar: Calendar) -> None:
        self._calendar = calendar

    def due(self, ahead: int) -> list[Ranked]:
        return self._calendar.due(ahead)

    def agenda(self, steps: int, begin: bool) -> Agenda:
        return self._calendar.agenda(0, steps, begin)


def due_in(policy: Policy, seqs: SequenceOf[Sequence]) -> Members:
    """When the members of a decode batch, or of any list in running order, are due."""
    if isinstance(seqs, DecodeBatch):
        return seqs
    calendar = Calendar(policy.period)
    for rank, seq in enumerate(seqs):
        calendar.add(rank, seq, policy.due_residues(seq), -seq.computed)
    return _Listed(calendar)
