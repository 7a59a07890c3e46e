"""Plans of decode steps between which nothing but counters moves."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sim.compiled import mypyc_attr
from sim.errors import IntegrityError
from sim.step import Count, Reads
from sim.step_log import Spans
from sim.usage import Usage, counts_of


class Stretch(NamedTuple):
    """Steps of a decode run, one after the other, in which attention loads the same.

    reads: of each of them per layer group, in numbers; pairs may rise, and are those of the last.
    """

    steps: int
    reads: tuple[Reads, ...]


@mypyc_attr(allow_interpreted_subclasses=True)
class DecodeRun(ABC):
    """A plan for up to ``steps`` decode steps of the same sequences, one token each a step.

    What it loads and how it uses the caches is found out when somebody asks, for all steps at
    once, and from the caches as they are before the plan is applied.

    steps: that find room; at least 1. tokens: computed by each step where it is not one a sequence
    (see `Placement.runs`). passes: forward passes of each step (see `Placement.passes`).
    """

    def __init__(self, steps: int, tokens: Count | None = None, passes: int = 1) -> None:
        self.steps = steps
        self.tokens = tokens
        self.passes = passes
        self._applied = False
        self._reads: tuple[Reads, ...] | None = None
        self._usage: tuple[Usage, ...] | None = None

    @property
    def reads(self) -> tuple[Reads, ...]:
        """Per layer group, arrays over ``steps``."""
        if self._reads is None:
            self._check_unapplied()
            self._reads = self._foreseen_reads()
        return self._reads

    @property
    def usage(self) -> tuple[Usage, ...]:
        """Per cache, as `Policy.usage` would answer during each of the steps."""
        if self._usage is None:
            self._check_unapplied()
            self._usage = self._foreseen_usage()
        return self._usage

    def _check_unapplied(self) -> None:
        if self._applied:
            raise IntegrityError("a plan was looked at for the first time after it was applied")

    def apply(self, steps: int) -> None:
        """Do the first ``steps`` steps (at most ``self.steps``). A plan is applied once."""
        if self._adds_up_usage():
            _ = self.usage
        self._applied = True
        self._apply(steps)

    @abstractmethod
    def _foreseen_reads(self) -> tuple[Reads, ...]:
        """`reads`, from the caches as they are now."""

    @abstractmethod
    def _foreseen_usage(self) -> tuple[Usage, ...]:
        """`usage`, from the caches as they are now."""

    @abstractmethod
    def _apply(self, steps: int) -> None:
        """`apply`, told once."""

    def _adds_up_usage(self) -> bool:
        """Whether `occupied` will want `usage`, which has to be made before the plan is applied."""
        return True

    def stretches(self) -> Iterator[Stretch] | None:
        """The same as `reads`, as stretches of steps that load the same; None if they differ.

        To be asked before the plan is applied.
        """
        return None

    def occupied(self, spans: Spans) -> tuple[list[tuple[int, ...]], int]:
        """How the caches were used during the steps taken, which had these durations.

        Per cache the sums over all steps of count x ticks, in the order of `PARTS`; and the most
        bytes that were live in all caches together. To be asked after the plan was applied.
        """
        ticks = np.array([t for n, t in spans for _ in range(n)], dtype=np.int64)
        duration = int(ticks.sum())
        totals = [
            tuple(_integral(count, ticks, duration) for count in counts_of(part))
            for part in self.usage
        ]
        live: Count = 0
        for part in self.usage:
            count = part.live
            live = live + (count[: len(ticks)] if isinstance(count, np.ndarray) else count) * (
                part.cell_bytes
            )
        return totals, int(live.max() if isinstance(live, np.ndarray) else live)


def _integral(count: Count, ticks: NDArray[np.int64], duration: int) -> int:
    if isinstance(count, np.ndarray):
        return int(count[: len(ticks)] @ ticks)
    return count * duration
