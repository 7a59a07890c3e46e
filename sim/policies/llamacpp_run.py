"""A run of decode steps in llama.cpp's caches, and how many of their cells are live."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sim.llamacpp.cells import EMPTY, Cells
from sim.llamacpp.decode_run import DecodeRun as CellRun
from sim.llamacpp.kv_cache import KVCache
from sim.llamacpp.search import limits_of, usable
from sim.llamacpp.sizes import CELL_PAD
from sim.policies.base import DecodeRun, Usage
from sim.sequence import Sequence
from sim.step import Reads

if TYPE_CHECKING:
    from sim.policies.llamacpp import LlamaPolicy

Ints = NDArray[np.int64]


class LlamaRun(DecodeRun):
    """Steps planned by every cache of a policy."""

    def __init__(self, policy: LlamaPolicy, seqs: list[Sequence], plan: dict[str, CellRun]) -> None:
        self._policy = policy
        self._seqs = seqs
        self._plan = plan
        self.steps = min(run.steps for run in plan.values())
        self.usage = tuple(
            _usage(policy.usage_of(cache), cache, plan[cache.name], self.steps)
            for cache in policy.caches
        )
        n_kv = [_n_kv(cache, plan[cache.name], self.steps) for cache in policy.caches]
        self.reads = tuple(
            Reads(len(seqs), 0, 0)
            if group.kind == "recurrent"
            else Reads(
                policy.scans_of(index, len(seqs)) * n_kv[policy.cache_of(index)],
                len(seqs) * n_kv[policy.cache_of(index)],
                0,
            )
            for index, group in enumerate(policy.groups)
        )

    def apply(self, steps: int) -> None:
        """Write the cells of the first ``steps`` steps."""
        self._policy.context.apply_decode_run(self._plan, steps)
        self._policy.advance(self._seqs, steps)


def _n_kv(cache: KVCache, run: CellRun, steps: int) -> Ints:
    """Cells that attention scans at each step: up to the highest one used so far, padded."""
    taken = run.cells[:steps]
    if cache.n_stream == 1:
        top = np.maximum(np.maximum.accumulate(taken.max(axis=1)) + 1, cache.streams[0].used_max_p1)
    else:
        before = np.array([cache.streams[seq].used_max_p1 for seq in run.seqs])
        top = np.maximum(np.maximum.accumulate(taken, axis=0) + 1, before).max(axis=1)
    padded = -(-top // CELL_PAD) * CELL_PAD
    return np.minimum(cache.size, padded).astype(np.int64)


def _usage(now: Usage, cache: KVCache, run: CellRun, steps: int) -> Usage:
    """How the cache is used during each step of the run."""
    fresh: Ints = np.cumsum((run.lost[:steps] == EMPTY).sum(axis=1), dtype=np.int64)
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
    """By how much the live cells of the running sequences have grown at each step."""
    held = np.array([cache.streams[cache.stream_of(seq)].count_of(seq) for seq in run.seqs])
    last = np.array(run.firsts, dtype=np.int64) - 1
    later = last[:, None] + np.arange(1, steps + 1)
    before = np.minimum(held, seen_by_next(cache, last))
    grown = held[:, None] + np.arange(1, steps + 1)
    after = np.minimum(grown, seen_by_next(cache, later))
    return (after - before[:, None]).sum(axis=0)


def seen_by_next(cache: KVCache, last: Ints) -> Ints:
    """Tokens before it that the token after position ``last`` can see, for every element."""
    masked = np.empty_like(last)
    cache.window.last_masked_each(last + 1, out=masked)
    return np.maximum(last - masked, 0)


def dead_cells(cache: KVCache, cells: Cells) -> NDArray[np.bool_]:
    """Which cells of a stream are out of their owner's window and may be overwritten."""
    passed = usable(cells, limits_of(cells, cache.window), 0, cells.size)
    return passed & (cells.owner != EMPTY)


def live_cells(cache: KVCache, cells: Cells) -> int:
    """Cells of one stream that the next token of an owner can still see."""
    if not cache.window.bounded:
        return cells.used
    if cells.n_shared:
        return cells.used - int(dead_cells(cache, cells).sum())
    spans = cells.refresh()
    return int(np.minimum(spans.count, seen_by_next(cache, spans.hi)).sum())
