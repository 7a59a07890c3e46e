"""What is noted down beside the cells is what a look at the cells finds (`check_integrity`)."""

from __future__ import annotations

import numpy as np
import pytest

from sim.llamacpp import whereabouts
from sim.llamacpp.batch import Batch, Decodes
from sim.llamacpp.geometry import AttentionGeometry
from sim.llamacpp.kv_cache import KVCache
from sim.llamacpp.memory import Placed
from sim.llamacpp.sizes import AttentionRows
from sim.llamacpp.window import UNBOUNDED, Window

ROWS = AttentionRows(AttentionGeometry(1, 32, 32, 64), "f16", "f16", False)


def cache_of(size: int, window: Window) -> KVCache:
    return KVCache("kv", ROWS, size=size, n_stream=1, n_seq_max=4, window=window)


def decode(cache: KVCache, *runs: tuple[int, int]) -> None:
    """Place so many next tokens of each sequence."""
    batch = Batch([((seq,), cache.seq_pos_max(seq) + 1, n) for seq, n in runs])
    assert isinstance(cache.place(batch, 512), Placed)


def run(cache: KVCache, seqs: list[int], steps: int) -> None:
    firsts = np.array(cache.next_positions(seqs))
    plan = cache.plan_decode_run(Decodes(np.array(seqs), firsts), steps)
    assert plan["kv"].steps == steps
    cache.apply_decode_run(plan, steps)


def test_windows_that_move_on_leave_open_cells_behind():
    cache = cache_of(96, Window("standard", 8))
    where = cache.streams[0].whereabouts
    assert where is not None
    decode(cache, (0, 20), (1, 5))
    for steps in (1, 2, 7):
        run(cache, [0, 1], steps)
        assert where.is_open_known
        cache.check_integrity()
    decode(cache, (2, 30))
    decode(cache, (0, 1), (1, 1), (2, 1))
    cache.seq_rm(1, -1, -1)
    assert where.is_open_known
    cache.check_integrity()
    assert int(where.open.sum()) == 96 - 2 * 7


@pytest.mark.parametrize("change", ["add", "take back", "copy", "keep", "clear"])
def test_what_else_happens_is_found_out_anew(change):
    cache = cache_of(64, Window("standard", 8))
    decode(cache, (0, 20), (1, 12))
    run(cache, [0, 1], 3)
    {
        "add": lambda: cache.seq_add(0, 0, -1, 5),
        "take back": lambda: cache.seq_rm(0, 20, -1),
        "copy": lambda: cache.seq_cp(0, 2, -1, -1),
        "keep": lambda: cache.seq_keep(1),
        "clear": cache.clear,
    }[change]()
    where = cache.streams[0].whereabouts
    assert where is not None and not where.is_open_known
    cache.check_integrity()
    decode(cache, (1, 3), (3, 9))
    cache.check_integrity()
    cache.seq_rm(0, -1, -1)
    cache.seq_rm(1, -1, -1)
    cache.check_integrity()


def test_a_sequence_with_more_positions_than_are_noted_is_searched_for(monkeypatch):
    monkeypatch.setattr(whereabouts, "_MOST_POSITIONS", 16)
    cache = cache_of(64, UNBOUNDED)
    cells = cache.streams[0]
    decode(cache, (0, 40), (1, 16))
    assert cells.whereabouts is not None
    assert not cells.whereabouts.knows(cells.spans, 0)
    assert cells.whereabouts.knows(cells.spans, 1)
    cache.check_integrity()
    cache.seq_rm(0, -1, -1)
    assert cells.used == 16
    cache.check_integrity()
