"""A run of decode steps in llama.cpp's caches: what every step scans, and how cells fill up."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from sim.decode_run import DecodeRun, Stretch
from sim.llamacpp.cells import EMPTY, Cells
from sim.llamacpp.decode_run import DecodeRun as CellRun
from sim.llamacpp.kv_cache import KVCache
from sim.llamacpp.sizes import CELL_PAD, padded
from sim.policies.llamacpp_usage import Ints
from sim.step import Count, Reads
from sim.step_log import Spans
from sim.usage import PARTS, Usage, counts_of


class Outlook(NamedTuple):
    """What a plan's steps load and how full they find the caches.

    reads: per layer group, numbers where all steps load the same. usage: per cache as it is before
    the first step. grown: per cache as it is during each step. rises: per cache by how much its
    live cells grow at every step; None where that differs from step to step.
    """

    reads: tuple[Reads, ...]
    usage: tuple[Usage, ...]
    grown: Callable[[], tuple[Usage, ...]]
    rises: tuple[int | None, ...]


class LlamaRun(DecodeRun):
    """Steps planned by every cache of a policy.

    look: makes the outlook, when somebody asks for anything before the plan is applied. apply:
    carries so many steps out. own_streams: whether sequences have streams of their own, where live
    cells grow out of those set aside, not out of the free ones.
    """

    def __init__(
        self,
        steps: int,
        passes: int,
        own_streams: bool,
        look: Callable[[], Outlook],
        apply: Callable[[int], None],
    ) -> None:
        super().__init__(steps, passes=passes)
        self._own_streams = own_streams
        self._look = look
        self._carry_out = apply
        self._outlook: Outlook | None = None

    def _foreseen_reads(self) -> tuple[Reads, ...]:
        """Cells that attention scans, per layer group."""
        self._outlook = self._look()
        return self._outlook.reads

    def _foreseen_usage(self) -> tuple[Usage, ...]:
        """Per cache."""
        return (self._outlook or self._look()).grown()

    def stretches(self) -> Iterator[Stretch]:
        """Steps between which no cache's highest used cell passes into another pad."""
        reads = self.reads
        bounds = {0}
        for each in reads:
            if isinstance(each.cells, np.ndarray):
                bounds.update(((np.diff(each.cells).nonzero()[0]) + 1).tolist())
        starts = sorted(bounds)
        for start, stop in zip(starts, [*starts[1:], self.steps], strict=True):
            yield Stretch(
                stop - start,
                tuple(Reads(_at(each.cells, start), _at(each.pairs, start), 0) for each in reads),
            )

    def occupied(self, spans: Spans) -> tuple[list[tuple[int, ...]], int]:
        """By closed form, unless cells fall out of windows."""
        outlook = self._outlook
        if outlook is None or None in outlook.rises:
            return super().occupied(spans)
        duration = moment = steps = 0
        for n, ticks in spans:
            duration += n * ticks
            moment += ticks * (steps * n + n * (n + 1) // 2)
            steps += n
        totals, live = [], 0
        for now, rise in zip(outlook.usage, outlook.rises, strict=True):
            assert rise is not None
            grown = rise * moment
            counts = [count * duration for count in counts_of(now)]
            counts[PARTS.index("live")] += grown
            counts[PARTS.index("internal" if self._own_streams else "free")] -= grown
            totals.append(tuple(counts))
            live += (int(now.live) + rise * steps) * now.cell_bytes
        return totals, live

    def _adds_up_usage(self) -> bool:
        """Where windows are: they are looked at as they are before the plan is carried out."""
        return self._outlook is not None and None in self._outlook.rises

    def _apply(self, steps: int) -> None:
        """Write the cells of the first ``steps`` steps."""
        self._carry_out(steps)


def _at(count: Count, step: int) -> int:
    return int(count[step]) if isinstance(count, np.ndarray) else count


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
    seqs = run.decodes.seqs.tolist()
    before = np.array([cache.streams[seq].used_max_p1 for seq in seqs])
    tops = np.maximum(np.maximum.accumulate(taken, axis=0) + 1, before)
    columns = {seq: column for column, seq in enumerate(seqs)}
    return [
        _padded(tops[:, [columns[seq] for seq in ubatch]].max(axis=1), cache.size)
        for ubatch in ubatches
    ]


def _padded(top: Ints, size: int) -> Ints:
    return np.minimum(size, -(-top // CELL_PAD) * CELL_PAD).astype(np.int64)


def usage_of_run(now: Usage, cache: KVCache, run: CellRun, steps: int) -> Usage:
    """How the cache is used during each step of the run, given how it is used before."""
    width = run.decodes.seqs.size
    fresh: Ints = np.arange(width, width * steps + 1, width)
    if run.lost is not None:
        fresh = np.cumsum((run.lost[:steps] == EMPTY).sum(axis=1), dtype=np.int64)
    live = now.live + (_live_growth(cache, run, steps) if cache.window.bounded else fresh)
    if cache.n_stream > 1:
        # Every stream belongs to its sequence alone: what is live is taken from its own cells.
        return replace(now, live=live, internal=now.internal - (live - now.live))
    used = now.live + now.internal + fresh
    return replace(now, live=live, internal=used - live, free=now.free - fresh)


def _live_growth(cache: KVCache, run: CellRun, steps: int) -> Ints:
    """By how much the live cells of the running sequences have grown at each step.

    Cells that several hold count as live wherever the window is, and come before a sequence's own.
    """
    seqs, firsts = run.decodes
    held = np.array([_held_alone(cache.streams[cache.stream_of(s)], s) for s in seqs.tolist()])
    last = firsts - 1
    later = last[:, None] + np.arange(1, steps + 1)
    before = np.minimum(held, cache.window.seen_by_next(last))
    grown = held[:, None] + np.arange(1, steps + 1)
    after = np.minimum(grown, cache.window.seen_by_next(later))
    return (after - before[:, None]).sum(axis=0)


def _held_alone(cells: Cells, seq: int) -> int:
    """Cells of a stream that ``seq`` shares with nobody."""
    if not cells.n_shared:
        return cells.count_of(seq)
    return int((cells.owner[cells.cells_of(seq, 0)] == seq).sum())
