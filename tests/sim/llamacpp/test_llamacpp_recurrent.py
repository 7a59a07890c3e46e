"""The recurrent cache: rules one by one, and against sets of sequences in plain lists."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from sim.llamacpp.batch import Batch, Refusal
from sim.llamacpp.errors import EngineAborts
from sim.llamacpp.geometry import RecurrentGeometry
from sim.llamacpp.recurrent import RecurrentCache
from sim.llamacpp.token_ids import as_met
from sim.llamacpp.ubatch import split_equal

GEOMETRY = RecurrentGeometry(layers=2, r_width=3, s_width=5)


def cache_of(n_seq_max=4, **kwargs):
    return RecurrentCache(GEOMETRY, n_seq_max=n_seq_max, **kwargs)


def decode(cache, *runs):
    return cache.place(Batch(runs), 64)


def order_of(cache):
    """(position, sequences) of used cells in order."""
    (state,) = cache.save(None, False)
    return [(pos, set(ids)) for pos, ids in state.cells]


class SlowStates:
    """Cells as [position, set of sequences]; every step as the rules say it."""

    def __init__(self, size):
        self.cells = [[-1, set()] for _ in range(size)]
        self.head = self.used = 0

    def cell_of(self, seq):
        return next((i for i, (_, owners) in enumerate(self.cells) if seq in owners), None)

    def leave(self, seq):
        i = self.cell_of(seq)
        if i is not None:
            self.cells[i][1].discard(seq)
            if not self.cells[i][1]:
                self.cells[i][0] = -1
                self.used -= 1
                return i
        return None

    def next_empty(self, start):
        size = len(self.cells)
        order = [(start + i) % size for i in range(size)]
        return next((i for i in order if not self.cells[i][1]), order[0])

    def ubatch(self, sets, lasts):
        if self.head > self.used + 2 * len(sets):
            self.head = 0
        for owners in sets:
            for seq in owners[1:]:
                self.leave(seq)
        at, empty = {}, self.next_empty(self.head)
        for k, owners in enumerate(sets):
            seq = owners[0]
            i = self.cell_of(seq)
            if i is None or self.cells[i][1] != {seq}:
                if i is not None:
                    self.cells[i][1].discard(seq)
                    self.cells[empty] = [self.cells[i][0], {seq}]
                at[seq] = empty
                if k + 1 < len(sets):
                    # A cell promised to a new sequence still looks empty: go on after it.
                    empty = self.next_empty(empty + 1)
            else:
                at[seq] = i
        low = min(at.values())
        for k, owners in enumerate(sets):
            a, b = low + k, at[owners[0]]
            self.cells[a], self.cells[b] = self.cells[b], self.cells[a]
            at = {s: a if i == b else b if i == a else i for s, i in at.items()}
        for k, (owners, last) in enumerate(zip(sets, lasts, strict=True)):
            self.cells[low + k] = [last, set(owners)]
        self.head, self.used = low, sum(bool(owners) for _, owners in self.cells)

    def order(self):
        return [(pos, set(owners)) for pos, owners in self.cells if owners]


OPS = st.lists(
    st.tuples(
        st.sampled_from(["decode"] * 4 + ["rm", "cp", "keep", "add"]),
        st.lists(st.integers(0, 3), min_size=1, max_size=4, unique=True),
        st.integers(1, 5),
        st.booleans(),
    ),
    min_size=1,
    max_size=25,
)


@settings(max_examples=300, deadline=None)
@given(OPS)
def test_arrangement_of_states(ops):
    fast, slow = cache_of(sequential=False), SlowStates(4)
    for what, seqs, n, shared in ops:
        seq, other = seqs[0], seqs[-1]
        if what == "decode" and shared and len(seqs) > 1:
            first = max(fast.seq_pos_max(s) for s in seqs) + 1
            runs = [(tuple(sorted(seqs)), first, n)]
        elif what == "decode":
            runs = [((s,), fast.seq_pos_max(s) + 1, n) for s in seqs]
        if what == "decode":
            for ubatch in split_equal(Batch(runs), 64, False):
                lasts = [first + n - 1 for _, first, n in ubatch.runs]
                slow.ubatch([owners[::-1] for owners, _, _ in ubatch.runs], lasts)
            assert not isinstance(fast.place(Batch(runs), 64), Refusal)
        elif what == "rm":
            freed = slow.leave(seq)
            if freed is not None:
                slow.head = min(slow.head, freed)
            assert fast.seq_rm(seq, -1, -1)
        elif what == "cp" and seq != other:
            slow.leave(other)
            i = slow.cell_of(seq)
            if i is not None:
                slow.cells[i][1].add(other)
            fast.seq_cp(seq, other, -1, -1)
        elif what == "keep":
            others = [i for i, (_, owners) in enumerate(slow.cells) if seq not in owners]
            for i in others:
                slow.used -= bool(slow.cells[i][1])
                slow.cells[i] = [-1, set()]
            for cell in slow.cells:
                cell[1] &= {seq}
            slow.head = min([slow.head, *others])
            fast.seq_keep(seq)
        elif what == "add":
            i = slow.cell_of(seq)
            if i is not None:
                slow.cells[i][0] += n
            fast.seq_add(seq, 0, -1, n)
        assert order_of(fast) == slow.order()
        assert (fast.cells.head, fast.cells.used) == (slow.head, slow.used)
        fast.check_integrity()


def test_removal_takes_all_or_nothing():
    cache = cache_of()
    decode(cache, ((0,), 0, 10))
    assert not cache.seq_rm(0, 5, -1)
    assert not cache.seq_rm(0, 9, 10)
    assert cache.seq_rm(0, 0, 9)
    assert cache.seq_rm(0, 10, -1)
    assert cache.seq_pos_max(0) == 9
    assert cache.seq_rm(0, 0, 10)
    assert cache.seq_pos_max(0) == -1
    assert not cache.seq_rm(4, -1, -1)
    assert not cache.seq_rm(-1, -1, -1)


def test_rollback_falls_back_on_a_snapshot_once():
    cache = cache_of(n_rs_seq=3)
    decode(cache, ((0,), 0, 10))
    assert not cache.seq_rm(0, 6, -1)
    assert cache.seq_rm(0, 7, -1)
    assert cache.seq_pos_max(0) == 6
    assert not cache.seq_rm(0, 6, -1)
    placed = decode(cache, ((0,), 7, 1))
    # Three tokens back: the third snapshot of cell 0, three planes of 4 cells further on.
    assert placed.states[0].copies == [(12, 0)]
    assert cache.seq_rm(0, 7, -1)


def test_tails_of_snapshots_stay_in_one_ubatch():
    cache = cache_of(n_rs_seq=3)
    placed = cache.place(Batch([((0,), 0, 10)]), 8)
    assert [u.n_tokens for u in placed.ubatches] == [6, 4]


def test_states_are_copied_from_where_they_were():
    cache = cache_of()
    assert decode(cache, ((0,), 0, 3)).states[0].copies == [(-1, 0)]
    assert decode(cache, ((0,), 3, 1)).states[0].copies == []
    cache.seq_cp(0, 1, -1, -1)
    assert decode(cache, ((1,), 4, 1)).states[0].copies == [(0, 1)]


def test_positions_may_become_negative():
    cache = cache_of()
    decode(cache, ((0,), 0, 10))
    cache.seq_add(0, 0, -1, -40)
    assert (cache.seq_pos_min(0), cache.seq_pos_max(0)) == (-31, -1)
    cache.seq_div(0, -100, -1, 2)
    assert cache.seq_pos_min(0) == -31
    decode(cache, ((1,), 0, 10))
    cache.seq_div(1, 0, -1, 4)
    assert cache.seq_pos_max(1) == 2
    with pytest.raises(EngineAborts, match="SIGFPE"):
        cache.seq_div(1, 0, -1, 0)


def test_unknown_ids_are_ignored_or_forget_everything():
    cache = cache_of()
    decode(cache, ((0,), 0, 10))
    cache.seq_cp(-1, 0, -1, -1)
    cache.seq_cp(0, 256, -1, -1)
    cache.seq_add(-1, 0, -1, 3)
    assert (cache.seq_pos_max(0), cache.seq_pos_max(-1), cache.seq_pos_max(99)) == (9, -1, -1)
    cache.seq_keep(-1)
    assert cache.usage().used == 0


def test_shared_tokens_are_refused():
    assert decode(cache_of(), ((0, 1), 0, 4)) is Refusal.COUPLED


def test_whole_state_of_unequal_rollbacks_ends_the_engine():
    cache = cache_of(n_rs_seq=3)
    decode(cache, ((0,), 0, 10))
    cache.seq_cp(0, 1, -1, -1)
    cache.seq_rm(1, 8, -1)
    with pytest.raises(EngineAborts, match="rolled back"):
        cache.save(None, False)


@pytest.mark.parametrize(
    ("listed", "met"),
    [
        ((0, 2), (2, 0)),
        ((2, 0), (0, 2)),
        ((1, 0, 2), (2, 0, 1)),
        ((0, 1, 13), (1, 13, 0)),
        ((5, 5), (5,)),
        (tuple(range(14)), (13, *range(13))),
    ],
)
def test_ids_of_a_token_are_met_in_hash_order(listed, met):
    assert as_met(listed) == met


def test_a_shared_state_goes_on_in_the_cell_of_the_id_listed_last():
    cache = cache_of(sequential=False)
    for seq in (0, 1, 2):
        decode(cache, ((seq,), 0, 3))
    decode(cache, ((0, 2), 3, 1))
    assert order_of(cache) == [(2, {1}), (3, {0, 2})]
