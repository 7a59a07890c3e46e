"""Runs of decode steps over a radix cache, planned as arrays and taken at once."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as SequenceOf
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from sim.decode_run import DecodeRun
from sim.errors import IntegrityError
from sim.paging.run import Members
from sim.radix.manager import RadixManager
from sim.sequence import Sequence
from sim.step import Reads
from sim.step_log import Spans
from sim.usage import PARTS, Usage, counts_of

Ints = NDArray[np.int64]


class RadixRun(DecodeRun):
    """A plan for ``seqs``. due: who begins a page so many steps from now.

    look: makes reads, and usage, of so many steps. singly: steps in which something more happens
    than that pages are taken, rising. before: how the only cache is used before a run in which
    every step fills a slot a sequence, and nothing else changes.
    """

    def __init__(
        self,
        manager: RadixManager,
        seqs: SequenceOf[Sequence],
        steps: int,
        due: Members,
        look: tuple[Callable[[int], tuple[Reads, ...]], Callable[[int], tuple[Usage, ...]]],
        singly: SequenceOf[int],
        before: Usage | None,
    ) -> None:
        super().__init__(steps)
        self._manager = manager
        self._seqs = seqs
        self._sequences = len(seqs)
        self._due = due
        self._look = look
        self._singly = singly
        self._before = before

    def _foreseen_reads(self) -> tuple[Reads, ...]:
        """Whole pages and live pairs, per layer group."""
        return self._look[0](self.steps)

    def _foreseen_usage(self) -> tuple[Usage, ...]:
        """The pools'."""
        return self._look[1](self.steps)

    def occupied(self, spans: Spans) -> tuple[list[tuple[int, ...]], int]:
        """Without arrays where every step fills a slot a sequence."""
        if self._before is None:
            return super().occupied(spans)
        done = filled = 0
        duration = spans.duration
        for steps, ticks in spans:
            filled += ticks * (steps * done + steps * (steps + 1) // 2)
            done += steps
        before, n = self._before, self._sequences
        counts = dict(zip(PARTS, counts_of(before), strict=True))
        sums = {part: duration * count for part, count in counts.items()}
        sums["live"] += n * filled
        sums["free"] -= n * filled
        return [tuple(sums.values())], (counts["live"] + n * done) * before.cell_bytes

    def _adds_up_usage(self) -> bool:
        """Unless every step fills a slot a sequence."""
        return self._before is None

    def _apply(self, steps: int) -> None:
        """Take pages in the order of the steps, and within each in running order."""
        done = 0
        for step in self._singly:
            if step < steps:
                self._take(done, step)
                self._visit(step)
                done = step + 1
        self._take(done, steps)

    def _visit(self, step: int) -> None:
        """One step as the policy would do it."""
        manager, due = self._manager, self._due.due(step)
        for _, seq in due:
            if not manager.extend_by_one(manager.holdings[seq.id], seq.computed + step):
                raise IntegrityError(f"{seq!r} finds no room in a decode run that was planned")
        manager.tokens += self._sequences - len(due)

    def _take(self, first: int, stop: int) -> None:
        """Steps in which pages are taken and nothing else happens."""
        if first < stop:
            if self._manager.page_size == 1:
                self._take_slots(stop - first)
            else:
                self._take_pages(first, stop)
            self._manager.tokens += (stop - first) * self._sequences

    def _take_slots(self, steps: int) -> None:
        """One slot a sequence and step: an array of all of them, of which each has a row."""
        manager, n = self._manager, self._sequences
        slots = manager.take_one_by_one(n * steps).reshape(steps, n)
        holdings = manager.holdings
        for seq, row in zip(self._seqs, np.ascontiguousarray(slots.T), strict=True):
            holdings[seq.id].add(row)

    def _take_pages(self, first: int, stop: int) -> None:
        manager, due = self._manager, [self._due.due(step) for step in range(first, stop)]
        pages = manager.take_one_by_one(sum(map(len, due)))
        for index, (_, seq) in enumerate(chain.from_iterable(due)):
            manager.grew(manager.holdings[seq.id], pages[index : index + 1])


def pages_begun(lengths: Ints, page_size: int, steps: int) -> Ints:
    """Pages that sequences of these lengths begin up to every step of a run, shape (steps,)."""
    if page_size == 1:
        return len(lengths) * np.arange(1, steps + 1, dtype=np.int64)
    first = np.bincount(-lengths % page_size, minlength=page_size)
    return np.cumsum(np.resize(first, steps))


def surplus_found(lengths: Ints, finals: Ints, page_size: int, steps: int) -> Ints:
    """Room in last pages that turns up as never to be used, up to every step of a run."""
    unused = -finals % page_size
    at = (finals - 1) // page_size * page_size - lengths
    soon = (at >= 0) & (at < steps)
    found = np.bincount(at[soon], weights=unused[soon], minlength=steps)
    return np.cumsum(found.astype(np.int64))
