"""What every sequence has computed, kept apart from where a policy put it."""

from __future__ import annotations

import numpy as np

from backends.formats import format_of
from backends.verification.content import Content, Identities, identities_of
from backends.verification.reference import GroupHistory
from sim.budget import Budget
from sim.sequence import Sequence

_OTHER = 1 << 40
"""Makes another branch of a branch: rejected drafts are other tokens than those to come."""


class _Past:
    """One sequence. known: identities that a fork handed down. dropped: by context shifts."""

    def __init__(self, known: Identities, groups: list[GroupHistory]) -> None:
        self.known = known
        self.groups = groups
        self.dropped = 0

    def __len__(self) -> int:
        return len(self.groups[0])


class Histories:
    """Histories of all sequences in all attention groups."""

    def __init__(self, budget: Budget, contents: list[Content]) -> None:
        self._contents = contents
        self._formats = format_of(budget.kv_type_k), format_of(budget.kv_type_v)
        self._pasts: dict[int, _Past] = {}
        self._void: dict[int, int] = {}
        """By sequence: from which token on the running step computes drafts that are rejected."""

    def identities(self, seq: Sequence, start: int, n: int) -> Identities:
        """Who tokens ``start .. start + n - 1`` are: what a fork handed down, then the path."""
        own = identities_of(seq, start, n)
        if seq.id in self._pasts:
            known = self._pasts[seq.id].known[start : start + n]
            own[: len(known)] = known
        if seq.id in self._void:
            own[max(0, self._void[seq.id] - start) :, 0] ^= _OTHER
        return own

    def reject(self, void: dict[int, int]) -> None:
        """A step begins that computes drafts in vain, by sequence from these tokens on.

        Those of the step before are forgotten: whoever goes on behind them reads wrong rows.
        """
        for seq, first in self._void.items():
            if seq in self._pasts:
                past = self._pasts[seq]
                for group in past.groups:
                    group.cut(max(0, first - past.dropped))
        self._void = void

    def rewind(self, seq: Sequence, start: int) -> None:
        """``seq`` goes on from token ``start``: later ones are forgotten, earlier ones are known.

        Those that it has not computed itself were found somewhere (prefix cache).
        """
        past = self._pasts.get(seq.id)
        if past is None:
            past = self._pasts[seq.id] = self._new(np.zeros((0, 2), np.int64))
        if not start:
            past.dropped = 0
        for group in past.groups:
            group.cut(max(0, start - past.dropped))
        self.compute(seq, start)

    def compute(self, seq: Sequence, end: int) -> None:
        """All tokens up to ``end`` that are not there yet."""
        past = self._pasts[seq.id]
        first = len(past) + past.dropped
        if first >= end:
            return
        ids = self.identities(seq, first, end - first)
        positions = np.arange(len(past), len(past) + len(ids))
        for group in past.groups:
            group.append(ids, positions)

    def shift(self, seq: Sequence, sinks: int, dropped: int) -> None:
        """A context shift: ``dropped`` tokens behind the first ``sinks`` are forgotten."""
        past = self._pasts[seq.id]
        past.dropped += dropped
        for group in past.groups:
            group.shift(sinks, sinks + dropped)

    def length(self, seq: Sequence) -> int:
        """Tokens that are there and not dropped."""
        return len(self._pasts[seq.id])

    def of(self, seq: Sequence, group: int) -> GroupHistory:
        """The history in one group, by its place among the attention groups."""
        return self._pasts[seq.id].groups[group]

    def fork(self, parent: Sequence, child: Sequence) -> None:
        """``child`` has computed what ``parent`` has."""
        source = self._pasts[parent.id]
        known = self.identities(parent, 0, len(source) + source.dropped)
        past = self._pasts[child.id] = self._new(known)
        past.dropped = source.dropped
        for mine, theirs in zip(past.groups, source.groups, strict=True):
            mine.adopt(theirs)

    def forget(self, seq: Sequence) -> None:
        """``seq`` is over."""
        self._pasts.pop(seq.id, None)

    def _new(self, known: Identities) -> _Past:
        return _Past(known, [GroupHistory(each, *self._formats) for each in self._contents])
