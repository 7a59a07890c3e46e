"""From what was decided for a step to what it costs: the bridge between policies and clocks."""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf

import numpy as np
from numpy.typing import NDArray

from sim.decode_run import DecodeRun
from sim.schedulers.batch import DecodeBatch
from sim.schedulers.runs import parts_of
from sim.sequence import Sequence
from sim.step import Placement, Step, Work


def work_of(step: Step, placement: Placement) -> Work:
    """What one step costs."""
    batch, apart = parts_of(placement.runs)
    tokens = rows = decodes = context = squares = longest = 0
    if batch is not None and batch.size:
        tokens = rows = decodes = batch.size
        context, squares, longest = batch.context, batch.squares, batch.longest
    prefills = []
    for seq, start, n in apart:
        tokens += n
        end = start + n
        rows += max(0, end - seq.tokens + 1)
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
        copy_bytes=sum([copy.bytes for copy in placement.copies]) if placement.copies else 0,
        shift_bytes=sum([shift.bytes for shift in placement.shifts]) if placement.shifts else 0,
    )


def work_of_run(plan: DecodeRun, seqs: SequenceOf[Sequence]) -> Work:
    """What each step of a decode run costs."""
    n = len(seqs)
    if plan.tokens is not None:
        # Whole sequences are computed again: to a clock these are prefills.
        return Work(plan.tokens, n, plan.reads, passes=plan.passes, steps=plan.steps)
    total, squares, longest = _lengths_of(seqs)
    grown = np.arange(1, plan.steps + 1, dtype=np.int64)
    return Work(
        tokens=n,
        sequences=n,
        reads=plan.reads,
        decodes=n,
        decode_context=total + n * grown,
        decode_squares=squares + 2 * total * grown + n * grown * grown,
        decode_longest=longest + grown,
        passes=plan.passes,
        steps=plan.steps,
    )


def size_of(seqs: SequenceOf[Sequence]) -> int:
    """How many there are; what `len` answers, without a detour where all is compiled."""
    return seqs.size if isinstance(seqs, DecodeBatch) else len(seqs)


def context_of(seqs: SequenceOf[Sequence]) -> int:
    """The sum of the lengths of decoding sequences."""
    return seqs.context if isinstance(seqs, DecodeBatch) else sum(seq.computed for seq in seqs)


def lengths_of(seqs: SequenceOf[Sequence]) -> NDArray[np.int64]:
    """The length of each of them."""
    if isinstance(seqs, DecodeBatch):
        return seqs.lengths
    return np.array([seq.computed for seq in seqs], dtype=np.int64)


def _lengths_of(seqs: SequenceOf[Sequence]) -> tuple[int, int, int]:
    """The sum of all lengths, of their squares, and the longest."""
    if isinstance(seqs, DecodeBatch):
        return seqs.context, seqs.squares, seqs.longest
    lengths = [seq.computed for seq in seqs]
    return sum(lengths), sum(length * length for length in lengths), max(lengths)
