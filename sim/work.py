"""From what was decided for a step to what it costs: the bridge between policies and clocks."""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf

import numpy as np

from sim.policies.base import DecodeRun
from sim.sequence import Sequence
from sim.step import Placement, Step, Work


def work_of(step: Step, placement: Placement) -> Work:
    """What one step costs."""
    tokens = rows = decodes = context = squares = longest = 0
    prefills = []
    for seq, start, n in placement.runs:
        tokens += n
        end = start + n
        rows += end == seq.tokens
        if n == 1 and end == seq.tokens and start >= seq.prompt:
            decodes += 1
            context += end
            squares += end * end
            longest = max(longest, end)
        else:
            prefills.append((n, start))
    return Work(
        tokens=tokens,
        sequences=rows,
        reads=placement.reads,
        prefills=tuple(prefills),
        decodes=decodes,
        decode_context=context,
        decode_squares=squares,
        decode_longest=longest,
        passes=placement.passes,
        copy_bytes=sum(copy.bytes for copy in placement.copies),
        shift_bytes=sum(shift.bytes for shift in placement.shifts),
    )


def work_of_run(plan: DecodeRun, seqs: SequenceOf[Sequence]) -> Work:
    """What each step of a decode run costs."""
    if plan.tokens is not None:
        # Whole sequences are computed again: to a clock these are prefills.
        return Work(plan.tokens, len(seqs), plan.reads, passes=plan.passes, steps=plan.steps)
    lengths = [seq.computed for seq in seqs]
    total, squares = sum(lengths), sum(length * length for length in lengths)
    grown = np.arange(1, plan.steps + 1, dtype=np.int64)
    return Work(
        tokens=len(seqs),
        sequences=len(seqs),
        reads=plan.reads,
        decodes=len(seqs),
        decode_context=total + len(seqs) * grown,
        decode_squares=squares + 2 * total * grown + len(seqs) * grown * grown,
        decode_longest=max(lengths) + grown,
        passes=plan.passes,
        steps=plan.steps,
    )
