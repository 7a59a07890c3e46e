"""How long llama.cpp's own search for cells takes, and how long ours, for the same cells.

A cache of 32,768 cells, 90 % full, the free cells scattered; 512 tokens are placed. Measured in one
run, on one thread, as medians:

* *engine, search and apply*: ``find_slot`` and ``apply_ubatch`` of those 512 tokens, in a state
  restore that then fails because its rows are missing, which removes the tokens again. No graph
  runs. The clock goes from the last line that ``find_slot`` logs before it searches to the line
  that follows ``apply_ubatch``.
* *engine, search*: ``find_slot`` alone. It leaves no trace between search and apply, unless it
  fails: so a search for one cell more than are free is timed, which looks at all cells, and of its
  time the share of cells is taken that the search for 512 looks at.
* *kvlab, place*: `KVCache.place` of one batch of the 512 tokens: splitting it into one ubatch,
  search, apply and commit. *kvlab, search*: its `find_slot` alone.
"""

from __future__ import annotations

import ctypes
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter_ns

import numpy as np
from numpy.typing import NDArray

from backends.conformance.llamacpp_models import TINY_MODELS
from backends.conformance.llamacpp_sizes import params_from
from backends.recorder.context import LiveContext, LiveModel
from backends.recorder.crafted import unrestorable, with_cells
from backends.recorder.library import LogCallback, load_library
from backends.recorder.log import DEBUG_ENVIRONMENT, Log
from backends.recorder.observe import NOBODY, Observer
from backends.recorder.script import DEFAULTS
from backends.recorder.tiny_models import write_model
from sim.llamacpp.batch import Batch
from sim.llamacpp.context import Context
from sim.llamacpp.kv_cache import KVCache
from sim.llamacpp.state import AttentionState, SavedState, StreamState
from sim.llamacpp.ubatch import split_simple
from sim.llamacpp.window import UNBOUNDED

CELLS, TOKENS, FULL = 32_768, 512, 0.9
#: Sequences that hold cells; the next one's cells are freed, and it is the one that is placed.
HOLDERS = 9
REPEATS = 300

_CONFIG = DEFAULTS | {
    "n_ctx": CELLS,
    "n_batch": TOKENS,
    "n_ubatch": TOKENS,
    "n_seq_max": HOLDERS + 1,
    "flash_attn": True,
}
_MODEL = "llama"

Cellset = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class SearchSpeed:
    """Medians in seconds. looked_at: cells up to the last one taken."""

    engine_apply_s: float
    engine_search_s: float
    place_s: float
    search_s: float
    looked_at: int

    @property
    def ratio(self) -> float:
        """Our whole place over the engine's search alone."""
        return self.place_s / self.engine_search_s

    def describe(self) -> str:
        """What was measured, in a few lines."""
        return "\n".join(
            (
                f"{TOKENS} tokens into {CELLS} cells, {FULL:.0%} full, scattered "
                f"({self.looked_at} cells looked at), medians of {REPEATS}:",
                f"  llama.cpp  search (find_slot)            {self.engine_search_s * 1e6:8.1f} us",
                f"  llama.cpp  search and apply_ubatch       {self.engine_apply_s * 1e6:8.1f} us",
                f"  kvlab      search (find_slot)            {self.search_s * 1e6:8.1f} us",
                f"  kvlab      place: split, search, apply   {self.place_s * 1e6:8.1f} us",
                f"  kvlab's place / llama.cpp's search: {self.ratio:.2f}",
            )
        )


def measure_search(library_path: Path, seed: int = 0) -> SearchSpeed:
    """Measure both sides on cells scattered by ``seed``.

    Raises `InputError` if the library cannot be used, RuntimeError if the two sides do not take the
    same cells.
    """
    library = load_library(library_path)
    log = Log(library)
    pos, seq = _scattered(seed)
    cache = _our_cache(pos, seq)
    taken = _our_slot(cache)
    with tempfile.TemporaryDirectory(prefix="kvlab-models-") as folder:
        path = Path(folder) / f"{_MODEL}.gguf"
        write_model(_MODEL, path, seed=0)
        model = LiveModel(library, log, path)
    try:
        if not np.array_equal(_engine_slot(model, pos, seq), taken):
            raise RuntimeError("llama.cpp does not take the cells that kvlab takes")
        looked_at = int(taken[-1]) + 1
        free = CELLS - cache.streams[0].used
        engine_apply, all_cells = _engine_times(library, model, pos, seq, free)
    finally:
        model.close()
        library.llama_log_set(LogCallback(), None)
    return SearchSpeed(
        engine_apply_s=engine_apply,
        engine_search_s=all_cells * looked_at / CELLS,
        place_s=_median_of(lambda: _time_place(cache)),
        search_s=_median_of(lambda: _time_search(cache)),
        looked_at=looked_at,
    )


def _scattered(seed: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Position and sequence of every cell; those of the last sequence are to be freed."""
    rng = np.random.default_rng(seed)
    seq = rng.integers(0, HOLDERS, CELLS)
    seq[rng.choice(CELLS, round(CELLS * (1 - FULL)), replace=False)] = HOLDERS
    pos = np.empty(CELLS, np.intp)
    for holder in range(HOLDERS + 1):
        held = np.flatnonzero(seq == holder)
        pos[held] = np.arange(held.size)
    return pos, seq


# ---- llama.cpp


def _filled(
    model: LiveModel, pos: NDArray[np.intp], seq: NDArray[np.intp], debug: str
) -> LiveContext:
    """A context with the cells, those of the last sequence freed. debug: how much is logged."""
    before = os.environ.get("LLAMA_KV_CACHE_DEBUG")
    os.environ["LLAMA_KV_CACHE_DEBUG"] = debug
    try:
        context = LiveContext(model, _CONFIG)
    finally:
        if before is None:
            del os.environ["LLAMA_KV_CACHE_DEBUG"]
        else:
            os.environ["LLAMA_KV_CACHE_DEBUG"] = before
    context.decode([[[0], 0, 1]])
    observer = Observer(context, 1, UNBOUNDED)
    observer.learn_layout()
    if not context.restore(with_cells(context.state(), observer.stream_bytes, pos, seq)):
        raise RuntimeError("llama.cpp does not restore a state of our making")
    context.seq_rm(HOLDERS, -1, -1)
    return context


def _engine_slot(model: LiveModel, pos: NDArray[np.intp], seq: NDArray[np.intp]) -> Cellset:
    """The cells that llama.cpp really puts the tokens into."""
    context = _filled(model, pos, seq, DEBUG_ENVIRONMENT["LLAMA_KV_CACHE_DEBUG"])
    context.decode([[[HOLDERS], 0, TOKENS]])
    cells = Observer(context, 1, UNBOUNDED).map_of(0, CELLS)
    context.close()
    runs = [(first, n) for first, holder, _, n in cells["runs"] if holder == str(HOLDERS)]
    return np.concatenate([np.arange(first, first + n) for first, n in runs])


def _engine_times(
    library: ctypes.CDLL, model: LiveModel, pos: NDArray[np.intp], seq: NDArray[np.intp], free: int
) -> tuple[float, float]:
    """Seconds of search and apply of the tokens, and of a search that looks at all cells."""
    context = _filled(model, pos, seq, debug="1")
    header = context.seq_header()
    clock = _SearchClock(library)
    times = []
    for n in (TOKENS, free + 1):
        state = unrestorable(header, 0, n)
        for _ in range(REPEATS):
            context.restore_seq(state, NOBODY)
        times.append(median(clock.take()) / 1e9)
    context.close()
    return times[0], times[1]


class _SearchClock:
    """Nanoseconds from the last line before each search to the first one after it."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._times: list[int] = []
        self._searching = False
        self._since = 0
        self._callback = LogCallback(self._on_message)
        library.llama_log_set(self._callback, None)

    def take(self) -> list[int]:
        """The times since the last call."""
        times, self._times = self._times, []
        return times

    def _on_message(self, level: int, text: bytes, user_data: int | None) -> None:
        now = perf_counter_ns()
        if text.startswith(b"find_slot: stream"):
            self._searching = True
        elif self._searching:
            self._searching = False
            self._times.append(now - self._since)
        self._since = perf_counter_ns()


# ---- kvlab


def _our_cache(pos: NDArray[np.intp], seq: NDArray[np.intp]) -> KVCache:
    context = Context(TINY_MODELS[_MODEL], params_from(_CONFIG))
    (cache,) = context.memory.attention_caches().values()
    stream = StreamState(pos.astype(np.int32), seq.astype(np.int16), None)
    arch = context.geometry.arch
    context.state_load(SavedState([AttentionState(cache.name, cache.rows, [stream])], arch))
    context.seq_rm(HOLDERS, -1, -1)
    return cache


def _batch() -> Batch:
    return Batch([((HOLDERS,), 0, TOKENS)])


def _our_slot(cache: KVCache) -> Cellset:
    (ubatch,) = split_simple(_batch(), TOKENS)
    slot = cache.find_slot(ubatch.tokens_of(1), 0)
    assert slot is not None
    ((_, _, taken),) = slot.parts
    return taken


def _time_place(cache: KVCache) -> int:
    head, batch = cache.heads[0], _batch()
    started = perf_counter_ns()
    cache.place(batch, TOKENS)
    took = perf_counter_ns() - started
    cache.seq_rm(HOLDERS, -1, -1)
    cache.heads[0] = head
    return took


def _time_search(cache: KVCache) -> int:
    (ubatch,) = split_simple(_batch(), TOKENS)
    parts = ubatch.tokens_of(1)
    started = perf_counter_ns()
    cache.find_slot(parts, 0)
    return perf_counter_ns() - started


def _median_of(time_once: Callable[[], int]) -> float:
    return median(time_once() for _ in range(REPEATS)) / 1e9
