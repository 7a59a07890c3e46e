"""How long the steps of a decode run take, one after the other."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass

import numpy as np

from sim.clock import ticks_of, to_ticks
from sim.decode_run import DecodeRun, Stretch
from sim.sequence import Sequence
from sim.step import Reads, Work
from sim.step_log import Spans, duration_of
from sim.timing.base import DecodeClock, TimeModel
from sim.work import work_of_run


@dataclass(slots=True)
class Priced:
    """Steps of a decode run and how long they take.

    steps, ticks: of all spans together. reads: of the steps of each span, if these are the same
    but for a rising number of pairs. work: otherwise, of all steps of the plan as arrays.
    """

    spans: Spans
    steps: int
    ticks: int
    reads: list[tuple[Reads, ...]] | None = None
    work: Work | None = None

    def cut(self, room: float) -> Priced:
        """The part up to the first step that ends after ``room`` ticks or later."""
        kept: Spans = []
        left = room
        for steps, ticks in self.spans:
            if steps * ticks >= left:
                kept.append((_steps_up_to(left, ticks, steps), ticks))
                break
            kept.append((steps, ticks))
            left -= steps * ticks
        return Priced(kept, sum(n for n, _ in kept), duration_of(kept), self.reads, self.work)


def priced(
    time_model: TimeModel, plan: DecodeRun, seqs: SequenceOf[Sequence], room: float
) -> Priced:
    """The plan's steps up to the first that ends ``room`` ticks from now or later.

    ``seqs``: who decodes. Must be asked before the plan is applied.
    """
    clock = time_model.decode_clock(len(seqs)) if plan.passes == 1 else None
    stretches = plan.stretches() if clock is not None else None
    if clock is not None and stretches is not None:
        found = _priced_by_stretch(stretches, clock, room)
        if found is not None:
            return found
    work = work_of_run(plan, seqs)
    seconds = time_model.seconds(work)
    if not isinstance(seconds, np.ndarray):
        ticks = to_ticks(seconds)
        steps = _steps_up_to(room, ticks, plan.steps)
        return Priced([(steps, ticks)], steps, steps * ticks, work=work)
    each = ticks_of(seconds)
    ends = np.cumsum(each)
    steps = min(int(np.searchsorted(ends, room)) + 1, len(ends))
    spans = [(1, ticks) for ticks in each[:steps].tolist()]
    return Priced(spans, steps, int(ends[steps - 1]), work=work)


def _priced_by_stretch(
    stretches: Iterable[Stretch], clock: DecodeClock, room: float
) -> Priced | None:
    """None where the steps of some stretch do not all take the same time."""
    spans: Spans = []
    loaded: list[tuple[Reads, ...]] = []
    taken = duration = 0
    for steps, reads in stretches:
        ticks = clock(reads)
        if ticks is None:
            return None
        whole = steps * ticks
        is_last = duration + whole >= room
        if is_last:
            steps = _steps_up_to(room - duration, ticks, steps)
            whole = steps * ticks
        loaded.append(reads)
        spans.append((steps, ticks))
        taken += steps
        duration += whole
        if is_last:
            break
    return Priced(spans, taken, duration, loaded)


def _steps_up_to(room: float, ticks: int, steps: int) -> int:
    """How many of ``steps`` equal steps are taken, the one that ends at ``room`` included."""
    return steps if steps * ticks < room else max(1, int(-(-room // ticks))) if ticks else 1
