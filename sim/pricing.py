"""How long the steps of a decode run take, one after the other."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, replace

import numpy as np

from sim.clock import ticks_of, to_ticks
from sim.policies.base import DecodeRun, Stretch
from sim.sequence import Sequence
from sim.step import Reads, Work
from sim.step_log import Spans
from sim.timing.base import DecodeClock, TimeModel
from sim.work import work_of_run


@dataclass(frozen=True, slots=True)
class Priced:
    """Steps of a decode run and how long they take.

    reads: of the steps of each span, if these are the same but for a rising number of pairs.
    work: otherwise, of all steps of the plan as arrays.
    """

    spans: Spans
    reads: list[tuple[Reads, ...]] | None = None
    work: Work | None = None

    def cut(self, room: float) -> Priced:
        """The part up to the first step that ends after ``room`` ticks or later."""
        kept: Spans = []
        for steps, ticks in self.spans:
            if steps * ticks >= room:
                kept.append((_steps_up_to(room, ticks, steps), ticks))
                break
            kept.append((steps, ticks))
            room -= steps * ticks
        return replace(self, spans=kept)


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
        return Priced([(_steps_up_to(room, ticks, plan.steps), ticks)], work=work)
    each = ticks_of(seconds)
    n = int(np.searchsorted(np.cumsum(each), room)) + 1
    return Priced([(1, ticks) for ticks in each[:n].tolist()], work=work)


def _priced_by_stretch(
    stretches: Iterable[Stretch], clock: DecodeClock, room: float
) -> Priced | None:
    """None where the steps of some stretch do not all take the same time."""
    spans: Spans = []
    loaded: list[tuple[Reads, ...]] = []
    for steps, reads in stretches:
        ticks = clock(reads)
        if ticks is None:
            return None
        loaded.append(reads)
        whole = steps * ticks
        if whole >= room:
            spans.append((_steps_up_to(room, ticks, steps), ticks))
            break
        spans.append((steps, ticks))
        room -= whole
    return Priced(spans, loaded)


def _steps_up_to(room: float, ticks: int, steps: int) -> int:
    """How many of ``steps`` equal steps are taken, the one that ends at ``room`` included."""
    return steps if steps * ticks < room else max(1, int(-(-room // ticks))) if ticks else 1
