"""A batch of tokens as runs, and the checks that ``llama_decode`` makes before it does anything.

A run is ``(sequence ids, first position, n)``: n tokens in batch order at rising positions, each
carrying all those ids. Nothing here goes token by token.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import Enum
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Run = tuple[tuple[int, ...], int, int]


class Decodes(NamedTuple):
    """One token of each of distinct sequences: their ids, and the position of each token."""

    seqs: NDArray[np.intp]
    firsts: NDArray[np.int64]

    def as_runs(self) -> list[Run]:
        """The same as runs."""
        each = zip(self.seqs.tolist(), self.firsts.tolist(), strict=True)
        return [((seq,), first, 1) for seq, first in each]


class Refusal(Enum):
    """Why a decode was refused: all but NO_SLOT and COUPLED with -1, those two with 1."""

    EMPTY = "no tokens"
    SEQ_ID = "sequence id out of range"
    NOT_CONSECUTIVE = "positions do not follow those in the cache"
    HOLE = "positions of a sequence are not continuous"
    DIVERGED = "sequences that share a token differ in the cache"
    DECREASING = "positions of a sequence decrease"
    COUPLED = "tokens of several sequences cannot be split sequence by sequence"
    NO_SLOT = "not enough cells"


class Positions(Protocol):
    """What the checks ask of a memory."""

    def seq_pos_min(self, seq: int) -> int:
        """Lowest position, -1 if none."""
        ...

    def seq_pos_max(self, seq: int) -> int:
        """Highest position, -1 if none."""
        ...


class Batch:
    """Runs in batch order. coupled: some token carries several sequences.

    Where ``decodes`` are given they come first, and the ``rest`` is one run each of yet other
    sequences; they are not spelled out as runs unless somebody asks.
    """

    __slots__ = ("_runs", "coupled", "decodes", "n_tokens", "rest")

    def __init__(
        self, runs: Iterable[tuple[Sequence[int], int, int]], decodes: Decodes | None = None
    ) -> None:
        self.decodes = decodes
        self.rest: list[Run] = [(tuple(seqs), first, n) for seqs, first, n in runs if n > 0]
        self.n_tokens = sum([run[2] for run in self.rest])
        self.coupled = max([len(run[0]) for run in self.rest], default=0) > 1
        self._runs: list[Run] | None = None
        if decodes is None:
            self._runs = self.rest
        else:
            self.n_tokens += decodes.seqs.size

    @property
    def runs(self) -> list[Run]:
        """All of them."""
        if self._runs is None:
            assert self.decodes is not None
            self._runs = self.decodes.as_runs() + self.rest
        return self._runs

    @property
    def has_distinct_sequences(self) -> bool:
        """Whether no set of sequences has more than one run."""
        runs = self.rest
        return self.decodes is not None or len({run[0] for run in runs}) == len(runs)


def refusal_of(batch: Batch, memory: Positions, n_seq_max: int) -> Refusal | None:
    """Why ``llama_decode`` returns -1 for this batch, or None (``llama_batch_allocr::init``)."""
    if batch.n_tokens == 0:
        return Refusal.EMPTY
    intervals: dict[int, list[tuple[int, int]]] = {}
    for seqs, first, n in batch.runs:
        for seq in seqs:
            if not 0 <= seq < n_seq_max:
                return Refusal.SEQ_ID
            intervals.setdefault(seq, []).append((first, first + n))
    for seq in sorted(intervals):
        wrong = _misplaced(intervals[seq], memory.seq_pos_max(seq))
        if wrong is not None:
            return wrong
    if batch.coupled and _diverged(batch, memory):
        return Refusal.DIVERGED
    return _disordered(batch)


def _misplaced(intervals: list[tuple[int, int]], last: int) -> Refusal | None:
    first = intervals[0][0] if len(intervals) == 1 else min(i[0] for i in intervals)
    if last >= 0 and first != last + 1:
        return Refusal.NOT_CONSECUTIVE
    if len(intervals) > 1:
        reach = first
        for start, end in sorted(intervals):
            if start > reach:
                return Refusal.HOLE
            reach = max(reach, end)
    return None


def _diverged(batch: Batch, memory: Positions) -> bool:
    pairs = {(seqs[0], seq) for seqs, _, _ in batch.runs for seq in seqs[1:]}
    return any(
        memory.seq_pos_min(a) != memory.seq_pos_min(b)
        or memory.seq_pos_max(a) != memory.seq_pos_max(b)
        for a, b in pairs
    )


def _disordered(batch: Batch) -> Refusal | None:
    """Positions in batch order: those of a sequence must not decrease, but may repeat.

    The engine also wants the sequence sets of a sequence's tokens to have something in common. They
    always do: the sequence itself.
    """
    last: dict[int, int] = {}
    for seqs, first, n in batch.runs:
        for seq in seqs:
            if first < last.get(seq, -1):
                return Refusal.DECREASING
            last[seq] = first + n - 1
    return None
