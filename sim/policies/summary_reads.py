"""What attention reads where a sequence holds fewer cells than it has tokens."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence as SequenceOf

import numpy as np
from numpy.typing import NDArray

from sim.groups import LayerGroup
from sim.reads import attended_in_run, cells_read, pairs_before
from sim.step import Reads, Run


def reads_of(
    groups: SequenceOf[LayerGroup], runs: Iterable[Run], held: SequenceOf[int]
) -> tuple[Reads, ...]:
    """Reads of runs whose sequences hold ``held`` cells each, those of the run included.

    Every query scores what was held before and the tokens of its run up to itself; a windowed
    layer does not score more than its window.
    """
    runs = list(runs)
    return tuple(
        Reads(
            sum(min(cells_read(group, r.start, r.n), h) for r, h in zip(runs, held, strict=True)),
            sum(
                min(
                    pairs_before(group, r.start + r.n) - pairs_before(group, r.start),
                    r.n * h - r.n * (r.n - 1) // 2,
                )
                for r, h in zip(runs, held, strict=True)
            ),
            0,
        )
        for group in groups
    )


def reads_of_run(
    groups: SequenceOf[LayerGroup],
    tokens: NDArray[np.int64],
    held: NDArray[np.int64],
    steps: int,
) -> tuple[Reads, ...]:
    """`reads_of` for each of ``steps`` decode steps, in which no token is merged.

    tokens, held: of each sequence before the first step, shape (sequences,).
    """
    cells = (_cells_of_run(group, tokens, held, steps) for group in groups)
    return tuple(Reads(read, read, 0) for read in cells)


def _cells_of_run(
    group: LayerGroup, tokens: NDArray[np.int64], held: NDArray[np.int64], steps: int
) -> NDArray[np.int64]:
    if group.kind != "chunked":
        # No more is held than there are tokens, so what is held counts in full and in a window.
        return attended_in_run(group, held, steps)
    step = np.arange(steps, dtype=np.int64)[:, None]
    chunk = (tokens + step) % group.window + 1
    read: NDArray[np.int64] = np.minimum(chunk, held + step + 1).sum(axis=1)
    return read
