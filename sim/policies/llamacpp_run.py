"""A run of decode steps in llama.cpp's caches: what every step scans, and how cells fill up."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np

from sim.errors import IntegrityError
from sim.llamacpp.cells import EMPTY, Cells
from sim.llamacpp.decode_run import DecodeRun as CellRun
from sim.llamacpp.kv_cache import KVCache
from sim.llamacpp.sizes import CELL_PAD, padded
from sim.policies.base import DecodeRun, Usage
from sim.policies.llamacpp_usage import Ints, seen_by_next
from sim.step import Count, Reads


class LlamaRun(DecodeRun):
    """Steps planned by every cache of a policy.

    look: makes reads and usage, when somebody asks for either before the plan is applied.
    apply: carries so many steps out.
    """

    def __init__(
        self,
        steps: int,
        passes: int,
        look: Callable[[], tuple[tuple[Reads, ...], tuple[Usage, ...]]],
        apply: Callable[[int], None],
    ) -> None:
        self.steps = steps
        self.passes = passes
        self._look = look
        self._apply = apply
        self._applied = False

    @cached_property
    def _seen(self) -> tuple[tuple[Reads, ...], tuple[Usage, ...]]:
        if self._applied:
            raise IntegrityError("a plan was looked at for the first time after it was applied")
        return self._look()

    @cached_property
    def reads(self) -> tuple[Reads, ...]:  # type: ignore[override]  # made when asked for
        """Cells that attention scans, per layer group."""
        return self._seen[0]

    @cached_property
    def usage(self) -> tuple[Usage, ...]:  # type: ignore[override]  # made when asked for
        """Per cache."""
        return self._seen[1]

    def apply(self, steps: int) -> None:
        """Write the cells of the first ``steps`` steps."""
        self._applied = True
        self._apply(steps)


def n_kv_of_run(cache: KVCache, run: CellRun, steps: int, ubatches: list[list[int]]) -> list[Count]:
    """Cells that attention of every ubatch scans at each step: up to the highest used, padded.

    ubatches: the sequences of each, in the order of the run's.
    """
    taken = run.cells[:steps]
    if cache.n_stream == 1:
        now = max(1, cache.streams[0].used_max_p1)
        if taken.max() < padded(now):
            return [min(cache.size, padded(now))]
        top = np.maximum(np.maximum.accumulate(taken.max(axis=1)) + 1, now)
        return [_padded(top, cache.size)]
    before = np.array([cache.streams[seq].used_max_p1 for seq in run.seqs])
    tops = np.maximum(np.maximum.accumulate(taken, axis=0) + 1, before)
    columns = {seq: column for column, seq in enumerate(run.seqs)}
    return [
        _padded(tops[:, [columns[seq] for seq in ubatch]].max(axis=1), cache.size)
        for ubatch in ubatches
    ]


def _padded(top: Ints, size: int) -> Ints:
    return np.minimum(size, -(-top // CELL_PAD) * CELL_PAD).astype(np.int64)


def usage_of_run(now: Usage, cache: KVCache, run: CellRun, steps: int) -> Usage:
    """How the cache is used during each step of the run, given how it is used now."""
    fresh: Ints
    if run.lost is None:
        width = len(run.seqs)
        fresh = np.arange(width, width * steps + 1, width)
    else:
        fresh = np.cumsum((run.lost[:steps] == EMPTY).sum(axis=1), dtype=np.int64)
    live = now.live + (_live_growth(cache, run, steps) if cache.window.bounded else fresh)
    if cache.n_stream > 1:
        # Every stream belongs to its sequence alone: what is live is taken from its own cells.
        now.internal = now.internal - (live - now.live)
    else:
        used = now.live + now.internal + fresh
        now.internal = used - live
        now.free = now.free - fresh
    now.live = live
    return now


def _live_growth(cache: KVCache, run: CellRun, steps: int) -> Ints:
    """By how much the live cells of the running sequences have grown at each step.

    Cells that several hold count as live wherever the window is, and come before a sequence's own.
    """
    held = np.array([_held_alone(cache.streams[cache.stream_of(seq)], seq) for seq in run.seqs])
    last = np.array(run.firsts, dtype=np.int64) - 1
    later = last[:, None] + np.arange(1, steps + 1)
    before = np.minimum(held, seen_by_next(cache, last))
    grown = held[:, None] + np.arange(1, steps + 1)
    after = np.minimum(grown, seen_by_next(cache, later))
    return (after - before[:, None]).sum(axis=0)


def _held_alone(cells: Cells, seq: int) -> int:
    """Cells of a stream that ``seq`` shares with nobody."""
    if not cells.n_shared:
        return cells.count_of(seq)
    return int((cells.owner[cells.cells_of(seq, 0)] == seq).sum())
