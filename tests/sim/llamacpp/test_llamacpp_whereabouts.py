"""What is noted down beside the cells is what a look at the cells finds (`check_integrity`)."""

from __future__ import annotations

import numpy as np
import pytest

from sim.llamacpp.batch import Batch, Decodes
from sim.llamacpp.dues import NEVER
from sim.llamacpp.geometry import AttentionGeometry
from sim.llamacpp.kv_cache import KVCache
from sim.llamacpp.placed import Placed
from sim.llamacpp.sizes import AttentionRows
from sim.llamacpp.whereabouts import Whereabouts
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
    dues = cache.streams[0].dues
    decode(cache, (0, 20), (1, 5))
    for steps in (1, 2, 7):
        run(cache, [0, 1], steps)
        assert dues.is_known
        cache.check_integrity()
    decode(cache, (2, 30))
    decode(cache, (0, 1), (1, 1), (2, 1))
    cache.seq_rm(1, -1, -1)
    assert dues.is_known
    cache.check_integrity()
    assert np.count_nonzero(dues.can_be_taken(0, 96)) == 96 - 2 * 7


@pytest.mark.parametrize("change", ["add", "copy", "keep"])
def test_what_else_happens_is_found_out_anew(change):
    cache = cache_of(64, Window("standard", 8))
    decode(cache, (0, 20), (1, 12))
    run(cache, [0, 1], 3)
    {
        "add": lambda: cache.seq_add(0, 0, -1, 5),
        "copy": lambda: cache.seq_cp(0, 2, -1, -1),
        "keep": lambda: cache.seq_keep(1),
    }[change]()
    assert not cache.streams[0].dues.is_known
    cache.check_integrity()
    decode(cache, (1, 3), (3, 9))
    cache.check_integrity()
    cache.seq_rm(0, -1, -1)
    cache.seq_rm(1, -1, -1)
    cache.check_integrity()


def test_what_is_taken_back_is_seen_again():
    cache = cache_of(64, Window("standard", 8))
    decode(cache, (0, 20), (1, 12))
    run(cache, [0, 1], 3)
    dues = cache.streams[0].dues
    assert np.count_nonzero(dues.can_be_taken(0, 64)) == 64 - 2 * 7
    cache.seq_rm(0, 20, -1)
    cache.seq_rm(1, 13, -1)
    assert dues.is_known
    assert np.count_nonzero(dues.can_be_taken(0, 64)) == 64 - 2 * 7
    cache.check_integrity()
    decode(cache, (0, 3), (1, 1))
    cache.check_integrity()


def test_windows_stay_where_their_sequences_pause():
    cache = cache_of(200, Window("standard", 8))
    decode(cache, (0, 20), (1, 12), (2, 5))
    run(cache, [0, 1], 3)
    decode(cache, (2, 4), (0, 1))
    decode(cache, (3, 30))
    run(cache, [3], 5)
    decode(cache, (0, 1), (2, 1), (3, 1))
    assert cache.streams[0].dues.is_known
    cache.check_integrity()


def test_a_clock_that_ran_for_long_begins_anew():
    cache = cache_of(96, Window("standard", 8))
    decode(cache, (0, 20), (1, 12))
    dues = cache.streams[0].dues
    late = int(NEVER) // 2
    dues.moment += late - dues.clock
    dues.moment[dues.moment > NEVER] = NEVER
    dues.clock = late
    cache.check_integrity()
    run(cache, [0, 1], 2)
    assert not dues.is_known
    run(cache, [0, 1], 2)
    assert dues.is_known and dues.clock < 10
    cache.check_integrity()


def test_a_sequence_with_more_positions_than_are_noted_is_searched_for():
    cache = cache_of(64, UNBOUNDED)
    cells = cache.streams[0]
    cells.whereabouts = Whereabouts(64, 0, 4, most_positions=16)
    decode(cache, (0, 40), (1, 16))
    assert not cells.whereabouts.knows(cells.spans, 0)
    assert cells.whereabouts.knows(cells.spans, 1)
    cache.check_integrity()
    cache.seq_rm(0, -1, -1)
    assert cells.used == 16
    cache.check_integrity()
