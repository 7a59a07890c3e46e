"""Saving and restoring the cells of one attention cache (``llama_kv_cache::state_write/read``)."""

from __future__ import annotations

import numpy as np

from sim.llamacpp.batch import Run
from sim.llamacpp.cells import EMPTY, NOBODY, SHARED, Cells, Cellset, Sets, words_of
from sim.llamacpp.spans import Ids
from sim.llamacpp.state import AttentionState, StreamState, attention_data_bytes
from sim.llamacpp.streams import Streams


def save_state(cache: Streams, seq: int | None) -> AttentionState:
    """What is saved of ``seq``, or with None of all sequences.

    Of one sequence, cells that a token at its highest position cannot see are left out. Ids that
    the context cannot name (``n_seq_max`` and above) are left out of the cells that are saved.
    """
    streams: list[StreamState | None] = []
    for cells in cache.streams:
        if seq is None:
            saved = (cells.owner != EMPTY).nonzero()[0]
            state = _named(cells, saved, cache.n_seq_max)
        else:
            saved = _visible(cache, cells, seq)
            owner = np.full(saved.size, seq if seq < cache.n_seq_max else NOBODY, np.int32)
            state = StreamState(cells.pos[saved], owner, None)
        streams.append(state if saved.size else None)
    return AttentionState(cache.name, cache.rows, streams)


def _visible(cache: Streams, cells: Cells, seq: int) -> Cellset:
    """The cells of ``seq`` that its highest position still sees."""
    first = cache.window.last_masked(cells.pos_max(seq)) + 1
    return cells.cells_of(seq, max(0, first))


def _named(cells: Cells, saved: Cellset, n_seq_max: int) -> StreamState:
    owner, sets = cells.owner[saved], None
    owner[owner >= n_seq_max] = NOBODY
    if cells.n_shared and cells.sets is not None:
        sets = cells.sets[saved]
        known = words_of(tuple(range(n_seq_max)))
        for w in range(sets.shape[1]):
            sets[:, w] &= np.uint64(known[w] if w < len(known) else 0)
        owner = _owners(owner, sets)
    return StreamState(cells.pos[saved], owner, sets)


def _owners(owner: Ids, sets: Sets) -> Ids:
    """Owner codes after ids were struck from the sets of shared cells; clears sets not shared."""
    was_shared = np.flatnonzero(owner == SHARED)
    bits = np.unpackbits(sets[was_shared].view(np.uint8), axis=1, bitorder="little")
    n = bits.sum(axis=1)
    owner[was_shared[n == 0]] = NOBODY
    owner[was_shared[n == 1]] = bits[n == 1].argmax(axis=1)
    sets[was_shared[n < 2]] = 0
    return owner


def state_bytes(cache: Streams, seq: int) -> int:
    """Bytes of `save_state` for one sequence, from the counters where they tell."""
    total = 4 + 4 * cache.n_stream
    cells = cache.streams[cache.stream_of(seq)]
    spans = cells.fresh(seq)
    n = spans.count_of(seq)
    if cache.window.bounded and n:
        if seq not in spans.irregular:
            lo, hi = spans.lowest(seq), int(spans.end[seq]) - 1
            n = hi - max(lo, cache.window.last_masked(hi) + 1) + 1
        else:
            n = _visible(cache, cells, seq).size
    if n:
        total += n * (12 if seq < cache.n_seq_max else 8) + attention_data_bytes(cache.rows, n)
    return total


def runs_of(saved: StreamState, seq: int) -> list[Run]:
    """The saved tokens in cell order, as those of one sequence."""
    pos = saved.pos
    breaks = np.flatnonzero(np.diff(pos) != 1) + 1
    starts = np.concatenate(([0], breaks))
    lengths = np.diff(np.append(starts, pos.size))
    return [
        ((seq,), first, n) for first, n in zip(pos[starts].tolist(), lengths.tolist(), strict=True)
    ]


def fill_all(cache: Streams, state: AttentionState) -> bool:
    """Restore all from cell 0 on in the saved order; gaps, heads and pending shifts are gone.

    False, with nothing left, where it does not fit.
    """
    if any(saved is not None and saved.pos.size > cache.size for saved in state.streams):
        cache.clear()
        return False
    cache.clear()
    for cells, saved in zip(cache.streams, state.streams, strict=True):
        if saved is not None:
            cells.fill(saved.pos, saved.owner, saved.sets)
    return True
