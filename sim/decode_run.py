"""Plans of decode steps between which nothing but counters moves."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sim.clock import to_ticks
from sim.compiled import mypyc_attr
from sim.errors import IntegrityError
from sim.step import Count, Reads, Work
from sim.step_log import Spans
from sim.timing.base import DecodeClock
from sim.usage import Usage, counts_of


class Stretch(NamedTuple):
    """Steps of a decode run, one after the other, in which attention loads the same.

    reads: of each of them per layer group, in numbers; pairs may rise, and are those of the last.
    """

    steps: int
    reads: tuple[Reads, ...]


class Priced:
    """Steps of a decode run and how long they take.

    cells: per layer group what a step of each span loads. work: of all steps of the plan as
    arrays, where there are no ``cells``.
    """

    def __init__(
        self,
        spans: Spans,
        cells: list[list[int]] | None = None,
        work: Work | None = None,
    ) -> None:
        self.spans = spans
        self.cells = cells
        self.work = work

    def cut(self, room: int) -> Priced:
        """The part up to the first step that ends after ``room`` ticks or later."""
        if self.spans.duration < room:
            return self
        kept = Spans()
        for steps, ticks in self.spans:
            kept.add(steps_up_to(room - kept.duration, ticks, steps), ticks)
            if kept.duration >= room:
                break
        return Priced(kept, self.cells, self.work)


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

    def priced(self, clock: DecodeClock, room: int) -> Priced | None:
        """Steps up to the first that ends ``room`` ticks from now or later, stretch by stretch.

        None where there are no stretches, or the steps of one do not all take the same time. To be
        asked before the plan is applied.
        """
        stretches = self.stretches()
        if stretches is None:
            return None
        spans = Spans()
        cells: list[list[int]] = []
        for stretch in stretches:
            seconds = clock.start
            for group, reads in enumerate(stretch.reads):
                each = clock.attention(
                    group, int(reads.cells), int(reads.pairs), int(reads.gathers)
                )
                if each < 0:
                    return None
                seconds += each
            ticks = to_ticks(seconds)
            spans.add(steps_up_to(room - spans.duration, ticks, stretch.steps), ticks)
            cells.append([int(reads.cells) for reads in stretch.reads])
            if spans.duration >= room:
                break
        return Priced(spans, [list(each) for each in zip(*cells, strict=True)])

    def occupied(self, spans: Spans) -> tuple[list[tuple[int, ...]], int]:
        """How the caches were used during the steps taken, which had these durations.

        Per cache the sums over all steps of count x ticks, in the order of `PARTS`; and the most
        bytes that were live in all caches together. To be asked after the plan was applied.
        """
        ticks = np.repeat(np.array(spans.ticks, dtype=np.int64), spans.counts)
        totals = [
            tuple(_integral(count, ticks, spans.duration) for count in counts_of(part))
            for part in self.usage
        ]
        live: Count = 0
        for part in self.usage:
            count = part.live
            live = live + (count[: len(ticks)] if isinstance(count, np.ndarray) else count) * (
                part.cell_bytes
            )
        return totals, int(live.max() if isinstance(live, np.ndarray) else live)


def steps_up_to(room: int, ticks: int, steps: int) -> int:
    """How many of ``steps`` equal steps are taken, the one that ends at ``room`` included."""
    if steps * ticks < room:
        return steps
    return max(1, -(-room // ticks)) if ticks else 1


def _integral(count: Count, ticks: NDArray[np.int64], duration: int) -> int:
    if isinstance(count, np.ndarray):
        return int(count[: len(ticks)] @ ticks)
    return count * duration
