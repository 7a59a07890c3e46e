"""What attention has to read at the least: every live cell once, nothing else."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from sim.model import LayerGroup
from sim.step import Reads, Run

CountT = TypeVar("CountT", int, NDArray[np.int64])


def attended(group: LayerGroup, position: int) -> int:
    """Cells that the token at ``position`` attends to in ``group``, its own included."""
    if group.kind == "full":
        return position + 1
    if group.kind == "swa":
        return min(position + 1, group.window)
    if group.kind == "chunked":
        return position % group.window + 1
    return 0


def _sum_to(n: CountT) -> CountT:
    return n * (n + 1) // 2


def pairs_before(group: LayerGroup, position: CountT) -> CountT:
    """Query-cell pairs of all tokens at positions below ``position`` (a number or an array)."""
    if group.kind == "full":
        return _sum_to(position)
    if group.kind == "swa":
        # The smaller of the two, in a form that holds for numbers and arrays alike.
        short = (position + group.window - abs(position - group.window)) // 2
        return _sum_to(short) + (position - short) * group.window
    if group.kind == "chunked":
        whole, rest = divmod(position, group.window)
        return whole * _sum_to(group.window) + _sum_to(rest)
    return position * 0


def cells_read(group: LayerGroup, start: int, n: int) -> int:
    """Distinct cells that tokens ``start .. start+n-1`` of one sequence attend to together.

    In a recurrent group: the state stored after them, and the one before them if there is one.
    """
    if group.kind == "swa":
        return min(start + n, n + group.window - 1)
    if group.kind == "chunked":
        return start + n - start // group.window * group.window
    if group.kind == "recurrent":
        return 2 if start else 1
    return start + n if group.kind == "full" else 0


def cells_read_each(
    group: LayerGroup, start: NDArray[np.int64], n: NDArray[np.int64] | int
) -> NDArray[np.int64]:
    """`cells_read` in a group of attention layers, for every element."""
    if group.kind == "swa":
        return np.minimum(start + n, n + group.window - 1)
    first = start // group.window * group.window if group.kind == "chunked" else 0
    return start + n - first


def exact_reads(groups: tuple[LayerGroup, ...], runs: Iterable[Run]) -> tuple[Reads, ...]:
    """Reads of a policy that keeps every sequence by itself and scans only what is live."""
    runs = list(runs)
    return tuple(
        Reads(
            sum(cells_read(group, run.start, run.n) for run in runs),
            sum(
                pairs_before(group, run.start + run.n) - pairs_before(group, run.start)
                for run in runs
            ),
            0,
        )
        for group in groups
    )


def attended_in_run(group: LayerGroup, lengths: NDArray[np.int64], steps: int) -> NDArray[np.int64]:
    """Sum of `attended` over sequences for each of ``steps`` decode steps, shape (steps,).

    ``lengths``: tokens held by each sequence before the first step, shape (sequences,).
    The cost is sequences + steps, not their product.
    """
    step = np.arange(steps, dtype=np.int64)
    if group.kind == "full":
        return int(lengths.sum()) + len(lengths) * (step + 1)
    if group.kind == "swa":
        return len(lengths) * group.window - _shortfall(group.window - 1 - lengths, steps)
    if group.kind == "chunked":
        phase = lengths % group.window
        grown: NDArray[np.int64] = int(phase.sum()) + len(lengths) * (step + 1)
        return grown - group.window * wraps(group.window - phase, group.window, steps)
    return np.zeros(steps, dtype=np.int64)


def attended_by_run(group: LayerGroup, lengths: NDArray[np.int64], steps: int) -> int:
    """The sum of `attended_in_run` over all steps; the cost does not grow with them."""
    if group.kind != "swa":
        pairs = pairs_before(group, lengths + steps) - pairs_before(group, lengths)
        return int(pairs.sum())
    # A sequence falls short of the window by d cells at the first step, d - 1 at the next, ...
    short = group.window - 1 - lengths
    falls = np.minimum(np.maximum(short, 0), steps)
    missing = int(falls @ short) - (int(falls @ falls) - int(falls.sum())) // 2
    return len(lengths) * steps * group.window - missing


def _shortfall(slack: NDArray[np.int64], steps: int) -> NDArray[np.int64]:
    """Sum over i of max(0, slack[i] - k) for every step k."""
    slack = np.maximum(slack, 0)
    ends = np.bincount(np.minimum(slack, steps), minlength=steps + 1)
    still_short = len(slack) - np.cumsum(ends)[:steps]
    total = np.empty(steps, dtype=np.int64)
    total[0] = slack.sum()
    total[1:] = total[0] - np.cumsum(still_short[:-1])
    return total


def wraps(first: NDArray[np.int64], period: int, steps: int) -> NDArray[np.int64]:
    """How often, up to every step, something happened that first happens at step ``first[i]``."""
    happened = np.zeros(steps, dtype=np.int64)
    while len(first := first[first < steps]):
        happened += np.bincount(first, minlength=steps)
        first = first + period
    return np.cumsum(happened)


def exact_reads_of_run(
    groups: tuple[LayerGroup, ...], lengths: NDArray[np.int64], steps: int
) -> tuple[Reads, ...]:
    """`exact_reads` for each of ``steps`` decode steps of sequences with these ``lengths``."""
    return tuple(
        Reads(2 * len(lengths), 0, 0)
        if group.kind == "recurrent"
        else Reads(cells := attended_in_run(group, lengths, steps), cells, 0)
        for group in groups
    )
