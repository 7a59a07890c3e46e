"""How long llama.cpp's own search for cells takes, and how long ours, for the same cells.

A cache of 32,768 cells, 90 % full, the free cells scattered; 512 tokens are placed. Measured in one
run, on one thread, as medians:

* *llama.cpp, search and apply*: ``find_slot`` and ``apply_ubatch`` of those 512 tokens, in a state
  restore that then fails because its rows are missing. The clock goes from the last line that
  ``find_slot`` logs before it searches to the line that follows ``apply_ubatch``.
* *llama.cpp, search*: ``find_slot`` alone. Nothing is logged between search and apply, unless the
  search fails: so one for one cell more than are free is timed, which looks at all cells, and of
  its time the share of cells is taken that the search for 512 looks at.
* *kvlab, place*: `KVCache.place` of a batch of the 512 tokens: splitting it into one ubatch,
  search, apply and commit. *kvlab, search*: its `find_slot` alone.
"""

from __future__ import annotations

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
from backends.recorder.context import LiveModel
from backends.recorder.engine_search import cells_taken, search_times
from backends.recorder.library import load_library
from backends.recorder.log import Log
from backends.recorder.scattered import Scattered, scatter
from backends.recorder.script import DEFAULTS
from backends.recorder.tiny_models import write_model
from sim.llamacpp.batch import Batch
from sim.llamacpp.context import Context
from sim.llamacpp.kv_cache import KVCache
from sim.llamacpp.state import AttentionState, SavedState, StreamState
from sim.llamacpp.ubatch import split_simple

CELLS, TOKENS, FULL = 32_768, 512, 0.9
REPEATS = 300
_MODEL = "llama"


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
    case = scatter(CELLS, FULL, TOKENS, seed)
    cache = _our_cache(case)
    taken = _our_slot(cache, case)
    looked_at = int(taken[-1]) + 1
    library = load_library(library_path)
    log = Log(library)
    with tempfile.TemporaryDirectory(prefix="kvlab-models-") as folder:
        path = Path(folder) / f"{_MODEL}.gguf"
        write_model(_MODEL, path, seed=0)
        model = LiveModel(library, log, path)
    if not np.array_equal(cells_taken(model, case), taken):
        raise RuntimeError("llama.cpp does not take the cells that kvlab takes")
    engine_apply, all_cells = search_times(model, case, REPEATS)
    model.close()
    return SearchSpeed(
        engine_apply_s=engine_apply,
        engine_search_s=all_cells * looked_at / CELLS,
        place_s=_median_of(lambda: _time_place(cache, case)),
        search_s=_median_of(lambda: _time_search(cache, case)),
        looked_at=looked_at,
    )


def _our_cache(case: Scattered) -> KVCache:
    context = Context(TINY_MODELS[_MODEL], params_from(DEFAULTS | case.config()))
    (cache,) = context.attention.values()
    stream = StreamState(case.pos.astype(np.int32), case.seq.astype(np.int32), None)
    state = AttentionState(cache.name, cache.rows, [stream])
    context.state_load(SavedState([state], context.geometry.arch))
    context.seq_rm(case.free, -1, -1)
    return cache


def _batch(case: Scattered) -> Batch:
    return Batch([((case.free,), 0, case.tokens)])


def _our_slot(cache: KVCache, case: Scattered) -> NDArray[np.intp]:
    (ubatch,) = split_simple(_batch(case), case.tokens)
    slot = cache.find_slot(ubatch.tokens_of(1), 0)
    assert slot is not None
    ((_, _, taken),) = slot.parts
    return taken


def _time_place(cache: KVCache, case: Scattered) -> int:
    head, batch = cache.heads[0], _batch(case)
    started = perf_counter_ns()
    cache.place(batch, case.tokens)
    took = perf_counter_ns() - started
    cache.seq_rm(case.free, -1, -1)
    cache.heads[0] = head
    return took


def _time_search(cache: KVCache, case: Scattered) -> int:
    (ubatch,) = split_simple(_batch(case), case.tokens)
    parts = ubatch.tokens_of(1)
    started = perf_counter_ns()
    cache.find_slot(parts, 0)
    return perf_counter_ns() - started


def _median_of(time_once: Callable[[], int]) -> float:
    return median(time_once() for _ in range(REPEATS)) / 1e9
