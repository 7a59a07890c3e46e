"""A run of decode steps in llama.cpp's caches: what every step scans, and how cells fill up."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sim.decode_run import DecodeRun, Stretch
from sim.llamacpp.cell_run import CellRun
from sim.llamacpp.cells import Cells
from sim.llamacpp.kv_cache import KVCache
from sim.llamacpp.sizes import CELL_PAD, padded
from sim.policies.llamacpp_usage import Ints
from sim.step import Count, Reads
from sim.step_log import Spans
from sim.usage import Usage


class Rise(NamedTuple):
    """By how many cells a cache is fuller with every step.

    live, used: a number for each step, or an array of what has come together by each of them.
    own_streams: whether sequences have streams of their own, where live cells grow out of those
    set aside, not out of the free ones.
    """

    live: Count = 0
    used: Count = 0
    own_streams: bool = False


class LlamaRun(DecodeRun):
    """Steps planned by every cache of a policy.

    reads: per layer group, numbers where all steps load the same. before: per cache how it is used
    before the first step; rises: and by how much more then. apply: carries so many steps out.
    """

    def __init__(
        self,
        steps: int,
        passes: int,
        reads: tuple[Reads, ...],
        before: tuple[Usage, ...],
        rises: list[Rise],
        apply: Callable[[int], None],
    ) -> None:
        super().__init__(steps, passes=passes)
        self._foreseen = reads
        self._before = before
        self._rises = rises
        self._carry_out = apply

    def _foreseen_reads(self) -> tuple[Reads, ...]:
        """Cells that attention scans, per layer group."""
        return self._foreseen

    def _foreseen_usage(self) -> tuple[Usage, ...]:
        """Per cache."""
        each = zip(self._before, self._rises, strict=True)
        return tuple([_grown(now, rise, self.steps) for now, rise in each])

    def stretches(self) -> Iterator[Stretch]:
        """Steps between which no cache's highest used cell passes into another pad."""
        reads = self.reads
        bounds = {0}
        for each in reads:
            if isinstance(each.cells, np.ndarray):
                bounds.update((np.diff(each.cells).nonzero()[0] + 1).tolist())
        if len(bounds) == 1:
            single = [Reads(_at(each.cells, 0), _at(each.pairs, 0), 0) for each in reads]
            yield Stretch(self.steps, tuple(single))
            return
        starts = sorted(bounds)
        for start, stop in zip(starts, [*starts[1:], self.steps], strict=True):
            yield Stretch(
                stop - start,
                tuple(Reads(_at(each.cells, start), _at(each.pairs, start), 0) for each in reads),
            )

    def occupied(self, spans: Spans) -> tuple[list[tuple[int, ...]], int]:
        """In closed form where caches fill evenly."""
        duration, over = spans.duration, _Integral(spans)
        is_even = not any(isinstance(rise.live, np.ndarray) for rise in self._rises)
        step: Count = spans.steps if is_even else np.arange(1, spans.steps + 1)
        totals: list[tuple[int, ...]] = []
        live: Count = 0
        for now, rise in zip(self._before, self._rises, strict=True):
            grown = over.of(rise.live)
            taken = grown if rise.own_streams else over.of(rise.used)
            free = int(now.free) * duration
            totals.append(
                (
                    int(now.live) * duration + grown,
                    0,
                    int(now.internal) * duration - (grown if rise.own_streams else grown - taken),
                    free if rise.own_streams else free - taken,
                    0,
                    int(now.shared) * duration,
                )
            )
            live = live + (now.live + _by(rise.live, step)) * now.cell_bytes
        return totals, int(live.max() if isinstance(live, np.ndarray) else live)

    def _adds_up_usage(self) -> bool:
        """What it starts from is known, and so is by how much it rises."""
        return False

    def _apply(self, steps: int) -> None:
        """Write the cells of the first ``steps`` steps."""
        self._carry_out(steps)


class _Integral:
    """Sums over steps of a rise, times their ticks."""

    def __init__(self, spans: Spans) -> None:
        self._spans = spans
        self._moment = 0
        steps = 0
        for n, ticks in spans:
            self._moment += ticks * (steps * n + n * (n + 1) // 2)
            steps += n
        self._ticks: NDArray[np.int64] | None = None

    def of(self, rise: Count) -> int:
        if not isinstance(rise, np.ndarray):
            return rise * self._moment
        if self._ticks is None:
            self._ticks = np.repeat(np.array(self._spans.ticks, np.int64), self._spans.counts)
        return int(rise[: self._spans.steps] @ self._ticks)


def _by(rise: Count, step: Count) -> Count:
    """What has come together by ``step``: of several steps, or of one where all are alike."""
    if isinstance(rise, np.ndarray):
        return rise[: np.size(step)]
    return rise * step


def _at(count: Count, step: int) -> int:
    return int(count[step]) if isinstance(count, np.ndarray) else count


def _grown(now: Usage, rise: Rise, steps: int) -> Usage:
    """How a cache is used during each of the steps."""
    step = np.arange(1, steps + 1)
    live, used = _by(rise.live, step), _by(rise.used, step)
    internal, free = now.internal + used - live, now.free - used
    if rise.own_streams:
        internal, free = now.internal - live, now.free + 0 * step
    return Usage(now.capacity, now.live + live, 0, internal, free, 0, now.shared, now.cell_bytes)


def n_kv_of_run(
    cache: KVCache, run: CellRun, steps: int, ubatches: list[list[int]] | None
) -> list[Count]:
    """Cells that attention of every ubatch scans at each step: up to the highest used, padded.

    ubatches: the sequences of each, in the order of the run's; None where all are in one.
    """
    taken = run.cells[:steps]
    if cache.n_stream == 1:
        now = max(1, cache.streams[0].used_max_p1)
        if padded(now) >= cache.size or taken.max() < padded(now):
            return [min(cache.size, padded(now))]
        top = np.maximum(np.maximum.accumulate(taken.max(axis=1)) + 1, now)
        return [_padded(top, cache.size)]
    seqs = run.decodes.seqs.tolist()
    ubatches = [seqs] if ubatches is None else ubatches
    before = np.array([cache.streams[seq].used_max_p1 for seq in seqs])
    tops = np.maximum(np.maximum.accumulate(taken, axis=0) + 1, before)
    columns = {seq: column for column, seq in enumerate(seqs)}
    return [
        _padded(tops[:, [columns[seq] for seq in ubatch]].max(axis=1), cache.size)
        for ubatch in ubatches
    ]


def _padded(top: Ints, size: int) -> Ints:
    return np.minimum(size, -(-top // CELL_PAD) * CELL_PAD).astype(np.int64)


def rise_of_run(cache: KVCache, run: CellRun, steps: int) -> Rise:
    """By how much the cache is fuller with each of the first ``steps`` steps."""
    width = run.decodes.seqs.size
    own = cache.n_stream > 1
    live = _live_growth(cache, run, steps) if cache.window.bounded else width
    if own or run.lost is None:
        return Rise(live, width, own)
    empty = run.lost[:steps] < 0
    fresh = np.count_nonzero(empty)
    if fresh in (0, empty.size):
        return Rise(live, width if fresh else 0)
    return Rise(live, np.cumsum(empty.sum(axis=1), dtype=np.int64))


def _live_growth(cache: KVCache, run: CellRun, steps: int) -> Count:
    """By how much the live cells of the running sequences have grown at each step.

    Cells that several hold count as live wherever the window is, and come before a sequence's own.
    """
    seqs, firsts = run.decodes.seqs, run.decodes.firsts
    if cache.n_stream == 1 and not cache.streams[0].n_shared:
        spans = cache.streams[0].spans
        held = spans.counts()[seqs] if spans.irregular else spans.end[seqs] - spans.low[seqs]
    else:
        held = np.array([_held_alone(cache.streams[cache.stream_of(s)], s) for s in seqs.tolist()])
    before = cache.window.seen_by_next(firsts - 1)
    if isinstance(before, int):
        # A window that slides has as many cells of a sequence as it has tokens, up to its size.
        room = before - held
        room = room[room > 0]
        if not room.size or room.min() >= steps:
            return room.size
        grown: Ints = np.minimum(room[:, None], np.arange(1, steps + 1)).sum(axis=0)
        return grown
    step = np.arange(1, steps + 1)
    after = np.minimum(held[:, None] + step, cache.window.seen_by_next(firsts[:, None] - 1 + step))
    rises: Ints = (after - np.minimum(held, before)[:, None]).sum(axis=0)
    return rises


def _held_alone(cells: Cells, seq: int) -> int:
    """Cells of a stream that ``seq`` shares with nobody."""
    if not cells.n_shared:
        return cells.count_of(seq)
    return int((cells.owner[cells.cells_of(seq, 0)] == seq).sum())
