"""A batch of tokens as runs, and the checks that ``llama_decode`` makes before it does anything.

A run is ``(sequence ids, first position, n)``: n tokens in batch order at rising positions, each
carrying all those ids. Nothing here goes token by token.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import Enum
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from sim.llamacpp.dues import OWNER_SHIFT
from sim.llamacpp.whereabouts import Whereabouts

Numbers = NDArray[np.int64]
Run = tuple[tuple[int, ...], int, int]

_STEPS: Final = np.arange(4096)[:, None]


class Decodes:
    """One token of each of distinct sequences: their ids, and the position of each token.

    It can be the first of several steps, of which each goes on where the one before ends.
    """

    __slots__ = ("_keys", "_positions", "_rows", "_width", "firsts", "seqs")

    def __init__(self, seqs: NDArray[np.intp], firsts: Numbers) -> None:
        self.seqs = seqs
        self.firsts = firsts
        self._positions: Numbers | None = None
        self._keys: Numbers | None = None
        self._rows: Numbers | None = None
        self._width = 0

    def positions(self, steps: int) -> Numbers:
        """Of the tokens of so many steps: shape (steps, sequences)."""
        known = self._positions
        if known is None or len(known) != steps:
            column = _STEPS[:steps] if steps <= _STEPS.size else np.arange(steps)[:, None]
            self._positions = known = self.firsts + column
            self._keys = self._rows = None
        return known

    def keys(self, steps: int) -> Numbers:
        """What cells hold that these tokens are put into, step by step (see `Cells.held`)."""
        positions = self.positions(steps)
        if self._keys is None:
            self._keys = (positions + (self.seqs << OWNER_SHIFT)).ravel()
        return self._keys

    def rows(self, steps: int, where: Whereabouts) -> Numbers:
        """Where their cells are noted, step by step; the same for all that are as wide."""
        positions = self.positions(steps)
        if self._rows is None or where.width != self._width:
            self._rows = where.rows_of(self.seqs, positions).ravel()
            self._width = where.width
        return self._rows

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
