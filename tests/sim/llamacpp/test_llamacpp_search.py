"""Cell search against a search that looks at one cell after the other."""

from __future__ import annotations

import time

import hypothesis.strategies as st
import numpy as np
from hypothesis import given, settings

from sim.llamacpp.cells import Cells
from sim.llamacpp.dues import NEVER, OWNER_SHIFT
from sim.llamacpp.search import (
    find_contiguous,
    find_scattered,
    largest_free_run,
    start_of_search,
)
from sim.llamacpp.window import UNBOUNDED, Window

#: Per cell: empty, or (owners, position).
CELL = st.one_of(st.none(), st.tuples(st.sets(st.integers(0, 2), max_size=2), st.integers(0, 12)))
WINDOWS = st.sampled_from(
    [UNBOUNDED, Window("standard", 1), Window("standard", 4), Window("chunked", 5)]
)


def cells_from(layout, window=UNBOUNDED):
    cells = Cells(len(layout), window)
    for i, cell in enumerate(layout):
        if cell is None:
            continue
        owners, pos = sorted(cell[0]), cell[1]
        at = np.array([i])
        keys = np.array([((owners[0] if owners else -3) << OWNER_SHIFT) + pos])
        cells.place(at, keys)
        cells.dues.changed(at, keys)
        if len(owners) > 1:
            cells.share(at, tuple(owners))
        cells.spans.stale.update(owners)
    return cells


def slow_usable(layout, window):
    last = {s: max((p for o, p in filter(None, layout) if s in o), default=-1) for s in range(3)}

    def can(cell):
        if cell is None:
            return True
        owners, pos = cell
        if len(owners) != 1:
            return False
        (owner,) = owners
        at = last[owner] + 1
        if window.kind == "standard":
            return at - pos >= window.n
        return window.kind == "chunked" and pos < at // window.n * window.n

    return [can(cell) for cell in layout]


def slow_find(usable, head, n, contiguous):
    size, found, tested = len(usable), [], 0
    if n > size:
        return None
    while True:
        if head + (n if contiguous else 1) > size:
            tested += size - head
            head = 0
            continue
        for _ in range(n if contiguous else 1):
            ok = usable[head]
            found += [head] if ok else []
            head += 1
            tested += 1
            if contiguous and not ok:
                break
        if len(found) == n:
            return found
        if contiguous:
            found = []
        if tested >= size:
            return None


@settings(max_examples=250, deadline=None)
@given(st.lists(CELL, min_size=1, max_size=60), WINDOWS, st.integers(0, 60), st.integers(1, 25))
def test_search_finds_what_a_walk_finds(layout, window, head, n):
    cells = cells_from(layout, window)
    head = min(head, len(layout))
    usable = slow_usable(layout, window)
    for find, contiguous in ((find_scattered, False), (find_contiguous, True)):
        got = find(cells, head, n)
        assert (None if got is None else got.tolist()) == slow_find(usable, head, n, contiguous)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.1, 0.5, 0.9, 0.99]), st.integers(1, 700))
def test_search_in_windows_of_a_large_cache(seed, fill, n):
    rng = np.random.default_rng(seed)
    layout = [({0}, i) if rng.random() < fill else None for i in range(4000)]
    head = int(rng.integers(0, 4001))
    cells = cells_from(layout)
    got = find_scattered(cells, head, n)
    expected = slow_find([cell is None for cell in layout], head, n, False)
    assert (None if got is None else got.tolist()) == expected


def test_head_goes_back_when_much_before_it_is_free():
    assert start_of_search(head=30, used=10, n=10) == 30
    assert start_of_search(head=31, used=10, n=10) == 0


def test_largest_free_run():
    assert largest_free_run(cells_from([None, None, ({0}, 1), None])) == 2
    assert largest_free_run(cells_from([({0}, 1)])) == 0


def test_search_is_fast_in_a_large_scattered_cache():
    """512 cells in 32,768 that are 90 % full: tens of microseconds, even on a slow machine."""
    rng = np.random.default_rng(1)
    cells = Cells(32768)
    full = np.sort(rng.permutation(32768)[: int(0.9 * 32768)])
    cells.place(full, np.arange(full.size))
    cells.dues.moment[full] = NEVER
    best = 1.0
    for head in (0, 9000, 20000, 32000) * 10:
        begin = time.perf_counter()
        find_scattered(cells, head, 512)
        best = min(best, time.perf_counter() - begin)
    assert best < 100e-6
