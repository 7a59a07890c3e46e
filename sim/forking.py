"""Requests of which several sequences run: parallel samples, and the beams of a beam search."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from sim.beams import Ancestry, replacements
from sim.policies.base import Policy
from sim.schedulers.base import Scheduler
from sim.sequence import Sequence, Status
from sim.step import Step
from workloads.request import Request

NewSequence = Callable[[Request, int], Sequence]
"""Makes a sequence of a request, given which of its samples it is."""


def sequences_of(request: Request) -> int:
    """Sequences that a request becomes: its beams, or else its samples.

    Of a beam search the best ``samples`` beams are answered; all of them are computed.
    """
    return max(request.samples, request.beam_width)


class _Search:
    """One beam search: its beams by number, and the length at which each was last looked at."""

    def __init__(self, first: Sequence) -> None:
        request = first.request
        self.ancestry = Ancestry(request.id, request.beam_width, request.output)
        self.beams = {0: first}
        self.looked_at: dict[int, int] = {}

    def take(self, beam: int, seq: Sequence) -> None:
        """From now on ``seq`` is beam number ``beam``."""
        self.beams[beam] = seq
        self.looked_at[beam] = seq.tokens

    def grown(self) -> dict[int, list[int]]:
        """Running beams that got a token since they were last looked at, by output length."""
        found: dict[int, list[int]] = {}
        for beam, seq in self.beams.items():
            if seq.status is Status.RUNNING and seq.tokens > self.looked_at[beam]:
                self.looked_at[beam] = seq.tokens
                found.setdefault(seq.tokens - seq.prompt, []).append(beam)
        return found

    def steps_to_change(self) -> int | None:
        """Steps until a running beam may die."""
        lengths = {seq.tokens - seq.prompt for seq in self.beams.values() if _runs(seq)}
        steps = [self.ancestry.steps_to_change(length) for length in lengths]
        return min((step for step in steps if step is not None), default=None)

    @property
    def is_over(self) -> bool:
        """Whether no beam will run again."""
        return all(seq.status in (Status.FINISHED, Status.FAILED) for seq in self.beams.values())


class Forking:
    """Lets sequences of one request share what they have in common, where the policy can.

    ``new_sequence`` numbers the sequences of a run. A sequence that cannot share (no room, or a
    policy without forks) waits its turn and computes its tokens for itself. Beams of such a policy
    are not chosen anew.
    """

    def __init__(self, policy: Policy, scheduler: Scheduler, new_sequence: NewSequence) -> None:
        self._policy = policy
        self._scheduler = scheduler
        self._new_sequence = new_sequence
        self._to_fork: set[int] = set()
        self._searches: dict[int, _Search] = {}

    def expect(self, request: Request) -> None:
        """``request`` will fork at the end of its prompt if it asks for several sequences."""
        if sequences_of(request) > 1:
            self._to_fork.add(request.id)

    def forget(self, request: Request) -> None:
        """``request`` is given up."""
        self._to_fork.discard(request.id)
        self._searches.pop(request.id, None)

    def parents_in(self, step: Step) -> list[Sequence]:
        """Sequences whose prompt this step completes and whose fellows do not exist yet."""
        if not self._to_fork:
            return []
        return [
            seq
            for seq, start, n in step.runs
            if seq.request.id in self._to_fork and start + n >= seq.prompt
        ]

    def fork(self, parents: Iterable[Sequence]) -> list[tuple[Sequence, Sequence]]:
        """Let the fellows of each parent start from its prompt and its first output token.

        Answers parent and child of every fork that was made.
        """
        forked = []
        for parent in parents:
            self._to_fork.remove(parent.request.id)
            children = [
                self._new_sequence(parent.request, sample)
                for sample in range(1, sequences_of(parent.request))
            ]
            for child in children:
                if self._shares(parent, child):
                    forked.append((parent, child))
                else:
                    self._scheduler.add(child)
            if parent.request.beam_width > 1 and self._policy.can_fork:
                search = self._searches[parent.request.id] = _Search(parent)
                for beam, seq in enumerate([parent, *children]):
                    search.take(beam, seq)
        return forked

    def _shares(self, parent: Sequence, child: Sequence) -> bool:
        runs = _runs(parent) and self._policy.can_fork
        return runs and self._scheduler.fork(parent, child)

    # Beams.

    def steps_to_change(self) -> int | None:
        """Steps until `choose_beams` may have something to do; None without a beam search."""
        if not self._searches:
            return None
        steps = [search.steps_to_change() for search in self._searches.values()]
        return min((step for step in steps if step is not None), default=None)

    def choose_beams(self) -> list[tuple[Sequence, Sequence, Sequence]]:
        """Choose again among beams of equal length that got a token in the step that is over.

        Beams that wait or were preempted neither die nor are gone on from. Answers each beam that
        died, the one that its place was given to, and the sequence that goes on there.
        """
        if not self._searches:
            return []
        replaced = []
        for number, search in list(self._searches.items()):
            for length, beams in search.grown().items():
                parents = search.ancestry.parents_at(length)
                if parents is not None:
                    present = {b: parents[b] if parents[b] in beams else b for b in beams}
                    replaced += [
                        self._replace(search, dying, parent)
                        for dying, parent in replacements(present)
                    ]
            if search.is_over:
                del self._searches[number]
        return replaced

    def _replace(
        self, search: _Search, dying: int, parent: int
    ) -> tuple[Sequence, Sequence, Sequence]:
        """Let beam number ``dying`` go on from where beam ``parent`` is."""
        dead, source = search.beams[dying], search.beams[parent]
        child = self._new_sequence(source.request, dead.sample)
        child.path = (*_cut(source, source.computed), (-1 - child.id, child.limit))
        child.preemptions, child.recomputed, child.hit = dead.preemptions, dead.recomputed, dead.hit
        child.high = source.computed
        self._scheduler.abort(dead)
        if not self._scheduler.fork(source, child):
            child.tokens = source.tokens
            self._scheduler.add(child)
        search.take(dying, child)
        return dead, source, child


def _runs(seq: Sequence) -> bool:
    return seq.status is Status.RUNNING


def _cut(seq: Sequence, length: int) -> list[tuple[int, int]]:
    """The part of the path of ``seq`` that reaches over its first ``length`` tokens."""
    kept = []
    for branch, end in seq.path:
        kept.append((branch, min(end, length)))
        if end >= length:
            break
    return kept
