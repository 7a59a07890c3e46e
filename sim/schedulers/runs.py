"""The runs of a step of which most are one token of a decode batch: listed only when asked."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as SequenceOf
from typing import overload

from sim.schedulers.batch import DecodeBatch
from sim.sequence import Sequence
from sim.step import Run

Chunks = dict[int, tuple[Sequence, int]]
"""By sequence id: tokens that a sequence outside the batch computes in a step."""


def parts_of(runs: SequenceOf[Run]) -> tuple[DecodeBatch | None, SequenceOf[Run]]:
    """A decode batch all of whose members take one token, and the runs beside it."""
    if isinstance(runs, BatchRuns):
        return runs.batch, runs.apart
    return None, runs


def number_of(runs: SequenceOf[Run]) -> int:
    """How many there are; what `len` answers, without a detour where all is compiled."""
    return runs.size if isinstance(runs, BatchRuns) else len(runs)


class BatchRuns(SequenceOf[Run]):
    """One token of every member of ``batch``, and ``chunks``, in running order: ``size`` runs.

    Made after the step was scheduled; must be asked before it is updated.
    """

    def __init__(self, batch: DecodeBatch, running: list[Sequence], chunks: Chunks) -> None:
        self.batch = batch
        self.chunks = chunks
        self._running = running
        self.size = batch.size + len(chunks)
        self._listed: list[Run] | None = None
        self._apart: list[Run] | None = None

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[Run]:
        return iter(self[:])

    @overload
    def __getitem__(self, index: int) -> Run: ...
    @overload
    def __getitem__(self, index: slice) -> list[Run]: ...
    def __getitem__(self, index: int | slice) -> Run | list[Run]:
        """The run at a place in scheduling order."""
        if self._listed is None:
            self._listed = self._list()
        return self._listed[index]

    @property
    def apart(self) -> list[Run]:
        """The runs of the chunks only."""
        if self._apart is None:
            self._apart = [Run(seq, seq.computed - n, n) for seq, n in self.chunks.values()]
        return self._apart

    def _list(self) -> list[Run]:
        runs, chunks, clock = [], self.chunks, self.batch.clock
        for seq in self._running:
            if seq.follows(clock):
                runs.append(Run(seq, seq.computed - 1, 1))
            elif seq.id in chunks:
                n = chunks[seq.id][1]
                runs.append(Run(seq, seq.computed - n, n))
        return runs
