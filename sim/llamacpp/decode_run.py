"""Many decode steps of the same sequences at once, cell for cell as single steps would go.

A step places one token of each of B sequences. The plan for a stream (`sim.llamacpp.stream_run`)
ends before a step that finds no room or, in a cache with a window, before one in which an
overwritten cell would make the cache purge positions.
"""

from __future__ import annotations

import numpy as np

from sim.llamacpp.batch import Decodes
from sim.llamacpp.cell_run import CellRun, Table
from sim.llamacpp.cells import Cells, Cellset
from sim.llamacpp.dues import OWNER_SHIFT, Contents
from sim.llamacpp.growth import note_decode_run
from sim.llamacpp.sizes import MAX_SEQ
from sim.llamacpp.stream_run import StreamRun
from sim.llamacpp.streams import Streams


def no_steps(decodes: Decodes) -> CellRun:
    """A plan of nothing."""
    return CellRun(decodes, np.empty((0, decodes.seqs.size), np.intp))


def plan_decode_run(cache: Streams, decodes: Decodes, n: int) -> CellRun:
    """Up to ``n`` steps; fewer, possibly 0, where the next one has to be made singly.

    The sequences are distinct, their ids valid. No step is planned where a sequence's next position
    does not follow what it has here. Nothing changes.
    """
    if n <= 0 or decodes.seqs.size == 0:
        return no_steps(decodes)
    if cache.n_stream == 1:
        following = cache.streams[0].refresh().end[decodes.seqs]
    else:
        following = np.array(cache.next_positions(decodes.seqs.tolist()))
    others = following != decodes.firsts
    if np.count_nonzero(others) and following[others].any():
        return no_steps(decodes)
    if cache.n_stream == 1:
        return CellRun(decodes, *_plan_stream(cache, 0, decodes, n))
    lanes = [
        _plan_stream(cache, seq, Decodes(decodes.seqs[b : b + 1], decodes.firsts[b : b + 1]), n)
        for b, seq in enumerate(decodes.seqs.tolist())
    ]
    steps = min(len(taken) for taken, _ in lanes)
    cells = np.concatenate([taken[:steps] for taken, _ in lanes], axis=1)
    whose = [each[:steps] for _, each in lanes if each is not None]
    return CellRun(decodes, cells, np.concatenate(whose, axis=1) if whose else None)


def _plan_stream(
    cache: Streams, stream: int, decodes: Decodes, n: int
) -> tuple[Table, Contents | None]:
    return StreamRun(cache.streams[stream], cache.heads[stream], decodes).plan(n)


def apply_decode_run(cache: Streams, plan: CellRun, steps: int) -> None:
    """Carry out the first ``steps`` steps of a plan made for the cache as it is."""
    if steps == 0:
        return
    if not 0 < steps <= plan.steps:
        raise ValueError(f"a plan of {plan.steps} steps cannot be carried out for {steps}")
    decodes, taken = plan.decodes, plan.cells[:steps]
    lost = None if plan.lost is None else plan.lost[:steps]
    if cache.n_stream == 1:
        _write(cache.streams[0], decodes, steps, taken.ravel(), lost)
        cache.heads[0] = int(taken[-1, -1]) + 1
        return
    for b, seq in enumerate(decodes.seqs.tolist()):
        lane = slice(b, b + 1)
        whose = None if lost is None else lost[:, lane]
        mine = Decodes(decodes.seqs[lane], decodes.firsts[lane])
        _write(cache.streams[seq], mine, steps, taken[:, b], whose)
        cache.heads[seq] = int(taken[-1, b]) + 1


def _write(
    cells: Cells, decodes: Decodes, steps: int, taken: Cellset, lost: Contents | None
) -> None:
    """Write tokens to cells, a later step over an earlier one; counters move by closed form."""
    # With repeated indices NumPy keeps the last value assigned, which is the last step's.
    cells.place(taken, decodes.keys(steps))
    note_decode_run(cells, decodes, steps, taken)
    if lost is None:
        return
    owners = lost[lost >= 0] >> OWNER_SHIFT
    if owners.size:
        cells.used -= owners.size
        cells.spans.trim_in_run(np.bincount(owners, minlength=MAX_SEQ))
