"""How long the steps of a decode run take, one after the other."""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf

import numpy as np

from sim.clock import ticks_of, to_ticks
from sim.decode_run import DecodeRun, Priced, steps_up_to
from sim.sequence import Sequence
from sim.step_log import Spans
from sim.timing.base import TimeModel
from sim.work import size_of, work_of_run


def priced(time_model: TimeModel, plan: DecodeRun, seqs: SequenceOf[Sequence], room: int) -> Priced:
    """The plan's steps up to the first that ends ``room`` ticks from now or later.

    ``seqs``: who decodes. Must be asked before the plan is applied.
    """
    clock = time_model.decode_clock(size_of(seqs)) if plan.passes == 1 else None
    if clock is not None:
        found = plan.priced(clock, room)
        if found is not None:
            return found
    work = work_of_run(plan, seqs)
    seconds = time_model.seconds(work)
    spans = Spans()
    if isinstance(seconds, np.ndarray):
        each = ticks_of(seconds)
        steps = min(int(np.searchsorted(np.cumsum(each), room)) + 1, len(each))
        for ticks in each[:steps].tolist():
            spans.add(1, ticks)
    else:
        ticks = to_ticks(seconds)
        spans.add(steps_up_to(room, ticks, plan.steps), ticks)
    return Priced(spans, work=work)
