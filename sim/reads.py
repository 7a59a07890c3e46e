"""What attention has to read at the least: every live cell once, nothing else."""

from __future__ import annotations

from collections.abc import Iterable

from sim.model import LayerGroup
from sim.step import Reads, Run


def attended(group: LayerGroup, position: int) -> int:
    """Cells that the token at ``position`` attends to in ``group``, its own included."""
    if group.kind == "full":
        return position + 1
    if group.kind == "swa":
        return min(position + 1, group.window)
    if group.kind == "chunked":
        return position % group.window + 1
    return 0


def _sum_to(n: int) -> int:
    return n * (n + 1) // 2


def pairs_before(group: LayerGroup, position: int) -> int:
    """Query-cell pairs of all tokens at positions below ``position``, in closed form."""
    if group.kind == "full":
        return _sum_to(position)
    if group.kind == "swa":
        short = min(position, group.window)
        return _sum_to(short) + (position - short) * group.window
    if group.kind == "chunked":
        whole, rest = divmod(position, group.window)
        return whole * _sum_to(group.window) + _sum_to(rest)
    return 0


def cells_read(group: LayerGroup, start: int, n: int) -> int:
    """Distinct cells that tokens ``start .. start+n-1`` of one sequence attend to together."""
    if group.kind == "swa":
        return min(start + n, n + group.window - 1)
    if group.kind == "chunked":
        return start + n - start // group.window * group.window
    return start + n if group.kind == "full" else 0


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
