"""Splitting into ubatches against splitting token by token."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from sim.llamacpp.batch import Batch, Refusal, refusal_of
from sim.llamacpp.errors import EngineAborts
from sim.llamacpp.ubatch import split_equal, split_simple


def tokens_of(runs):
    return [(tuple(seqs), first + i) for seqs, first, n in runs for i in range(n)]


def slow_simple(tokens, n_ubatch):
    return [tokens[i : i + n_ubatch] for i in range(0, len(tokens), n_ubatch)]


def slow_equal(tokens, n_ubatch, sequential, keep):
    """``llama_batch_allocr::split_equal``, token by token."""
    used, done = [False] * len(tokens), []
    while not all(used):
        chosen, last = [], None
        for i, (seqs, _) in enumerate(tokens):
            if used[i] or any(set(seqs) & set(other) for other in chosen):
                continue
            if sequential and chosen and seqs[0] != last + 1:
                continue
            chosen.append(seqs)
            last = seqs[0]
            if len(chosen) > n_ubatch:
                break
        lanes = [
            [i for i, (seqs, _) in enumerate(tokens) if set(seqs) == set(c) and not used[i]]
            for c in chosen
        ]
        each = 0
        while True:
            each += 1
            if any(len(lane) == each for lane in lanes) or (each + 1) * len(lanes) > n_ubatch:
                break
        if keep:
            kept = []
            for lane in lanes:
                if 0 < len(lane) - each < keep:
                    break
                kept.append(lane)
            if not kept:
                kept = lanes[:1]
                each = len(lanes[0]) if len(lanes[0]) <= n_ubatch else len(lanes[0]) - keep
            lanes = kept
        picked = [i for lane in lanes for i in lane[:each]]
        for i in picked:
            used[i] = True
        done.append(([tokens[i] for i in picked], len(lanes)))
    return done


@st.composite
def batches(draw, shared=False):
    following = [draw(st.integers(0, 3)) for _ in range(6)]
    runs = []
    for _ in range(draw(st.integers(1, 8))):
        seqs = {draw(st.integers(0, 5))}
        if shared and draw(st.booleans()):
            seqs |= {draw(st.integers(0, 5))}
        n = draw(st.integers(1, 9))
        first = max(following[s] for s in seqs)
        runs.append((tuple(sorted(seqs)), first, n))
        for s in seqs:
            following[s] = first + n
    return runs


@given(batches(shared=True), st.integers(1, 12))
def test_simple_split(runs, n_ubatch):
    got = split_simple(Batch(runs), n_ubatch)
    assert [tokens_of(u.runs) for u in got] == slow_simple(tokens_of(runs), n_ubatch)
    assert all(u.n_seqs == u.n_tokens and u.n_seq_tokens == 1 for u in got)


@settings(max_examples=300, deadline=None)
@given(batches(), st.integers(1, 12), st.integers(0, 4))
def test_sequential_equal_split(runs, n_ubatch, keep):
    keep = min(keep, n_ubatch - 1)
    got = split_equal(Batch(runs), n_ubatch, True, keep)
    expected = slow_equal(tokens_of(runs), n_ubatch, True, keep)
    assert [(tokens_of(u.runs), u.n_seqs) for u in got] == expected


@settings(max_examples=300, deadline=None)
@given(batches(shared=True), st.integers(1, 12))
def test_equal_split_of_disjoint_sets(runs, n_ubatch):
    got = split_equal(Batch(runs), n_ubatch, False)
    expected = slow_equal(tokens_of(runs), n_ubatch, False, 0)
    assert [(tokens_of(u.runs), u.n_seqs) for u in got] == expected


def test_shared_tokens_cannot_be_split_sequentially():
    assert split_equal(Batch([((0, 1), 0, 4)]), 8, True) is None


def test_a_tail_that_no_ubatch_holds_ends_the_engine():
    with pytest.raises(EngineAborts, match="n_keep_tail"):
        split_equal(Batch([((0,), 0, 4)]), 2, True, 2)


class Holding:
    """A memory that holds given positions."""

    def __init__(self, **spans):
        self.spans = {int(k[1:]): v for k, v in spans.items()}

    def seq_pos_min(self, seq):
        return self.spans.get(seq, (-1, -1))[0]

    def seq_pos_max(self, seq):
        return self.spans.get(seq, (-1, -1))[1]


@pytest.mark.parametrize(
    ("runs", "refusal"),
    [
        ([], Refusal.EMPTY),
        ([((0,), 0, 0)], Refusal.EMPTY),
        ([((4,), 0, 1)], Refusal.SEQ_ID),
        ([((-1,), 0, 1)], Refusal.SEQ_ID),
        ([((0,), 10, 1)], None),
        ([((0,), 9, 1)], Refusal.NOT_CONSECUTIVE),
        ([((0,), 11, 1)], Refusal.NOT_CONSECUTIVE),
        ([((1,), 77, 5)], None),
        ([((1,), 0, 3), ((1,), 4, 1)], Refusal.HOLE),
        ([((1,), 0, 3), ((1,), 2, 3)], None),
        ([((1,), 2, 1), ((1,), 1, 1)], Refusal.DECREASING),
        ([((0,), 11, 1), ((0,), 10, 1)], Refusal.DECREASING),
        ([((0, 1), 10, 1)], Refusal.DIVERGED),
        ([((0, 2), 10, 1)], None),
        ([((1, 3), 0, 1), ((1,), 1, 1)], None),
        ([((1,), 0, 1), ((1, 3), 1, 1), ((3,), 2, 1)], None),
        ([((0, 1), 0, 1), ((1, 3), 1, 1), ((3, 0), 2, 1)], Refusal.NOT_CONSECUTIVE),
        ([((1, 3), 0, 1), ((3, 1), 1, 1)], None),
        ([((0, 2), 10, 1), ((2,), 11, 1), ((0,), 11, 1)], None),
        ([((0,), 10, 1), ((0, 2), 11, 1), ((2,), 12, 1)], Refusal.NOT_CONSECUTIVE),
    ],
)
def test_batch_checks(runs, refusal):
    assert refusal_of(Batch(runs), Holding(s0=(0, 9), s2=(0, 9)), 4) is refusal
