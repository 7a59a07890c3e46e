"""llama.cpp's search for cells, watched and timed from outside, without running a graph."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median
from time import perf_counter_ns

import numpy as np
from numpy.typing import NDArray

from backends.recorder.context import LiveContext, LiveModel
from backends.recorder.crafted import unrestorable, with_cells
from backends.recorder.library import LogCallback
from backends.recorder.log import DEBUG_ENVIRONMENT
from backends.recorder.observe import NOBODY, Observer
from backends.recorder.scattered import Scattered
from backends.recorder.script import DEFAULTS
from sim.llamacpp.window import UNBOUNDED

#: How much is logged of a search: counters and bounds only, or every cell.
_DEBUG = "LLAMA_KV_CACHE_DEBUG"
_COUNTERS, _CELLS = "1", DEBUG_ENVIRONMENT[_DEBUG]


def cells_taken(model: LiveModel, case: Scattered) -> NDArray[np.intp]:
    """The cells that llama.cpp really puts the tokens into, when it decodes them."""
    with _filled(model, case, _CELLS) as context:
        context.decode([[[case.free], 0, case.tokens]])
        shown = Observer(context, 1, UNBOUNDED).map_of(0, case.size)
    runs = [(first, n) for first, held_by, _, n in shown["runs"] if held_by == str(case.free)]
    return np.concatenate([np.arange(first, first + n) for first, n in runs])


def search_times(model: LiveModel, case: Scattered, repeats: int) -> tuple[float, float]:
    """Medians in seconds: search and apply of the tokens; a search that looks at all cells.

    Both in restores of a sequence that nobody has, which fail: the first since its rows are
    missing, after which the tokens are removed again, the second since it asks for one cell more
    than are free. The library's log goes elsewhere afterwards.
    """
    times = []
    with _filled(model, case, _COUNTERS) as context:
        header = context.seq_header()
        clock = _SearchClock(model.library)
        for n in (case.tokens, case.n_free + 1):
            state = unrestorable(header, 0, n)
            for _ in range(repeats):
                context.restore_seq(state, NOBODY)
            times.append(median(clock.take()) / 1e9)
    model.library.llama_log_set(LogCallback(), None)
    return times[0], times[1]


@contextmanager
def _filled(model: LiveModel, case: Scattered, debug: str) -> Iterator[LiveContext]:
    """A context with the cells of ``case``."""
    before = os.environ.get(_DEBUG)
    os.environ[_DEBUG] = debug
    try:
        context = LiveContext(model, DEFAULTS | case.config())
    finally:
        if before is None:
            del os.environ[_DEBUG]
        else:
            os.environ[_DEBUG] = before
    try:
        context.decode([[[0], 0, 1]])
        observer = Observer(context, 1, UNBOUNDED)
        observer.learn_layout()
        state = with_cells(context.state(), observer.stream_bytes, case.pos, case.seq)
        if not context.restore(state):
            raise RuntimeError("llama.cpp does not restore a state of our making")
        context.seq_rm(case.free, -1, -1)
        yield context
    finally:
        context.close()


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
