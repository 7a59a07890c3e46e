"""Attention over layouts: what is read, what counts, what comes out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.arrays import Backend
from backends.attention import attend
from backends.layouts import Held, block_table, cells, ranges, scan_of, tables_of
from backends.shape import GroupShape, RowShape, first_visible, visible
from backends.softmax import attention
from backends.store import KVStore
from sim.errors import IntegrityError
from sim.model import LayerGroup
from sim.reads import attended

ROW = RowShape(2, 16, 8)
KINDS = [("full", 0), ("swa", 5), ("chunked", 6)]


def by_hand(q, k, v, mask, scale, sinks=None):
    """Query by query and head by head, in double precision."""
    out = np.zeros((*q.shape[:2], v.shape[-1]))
    per_head = q.shape[1] // k.shape[1]
    for i, head in np.ndindex(q.shape[:2]):
        seen = np.flatnonzero(mask[i])
        scores = [scale * float(q[i, head] @ k[j, head // per_head]) for j in seen]
        weights = np.exp(scores)
        total = weights.sum() + (0 if sinks is None else np.exp(float(sinks[head])))
        for weight, j in zip(weights, seen, strict=True):
            out[i, head] += weight / total * v[j, head // per_head]
    return out


def random_rows(seed, *sizes):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=size).astype(np.float32) for size in sizes]


@pytest.mark.parametrize("heads", [2, 6])
@pytest.mark.parametrize("with_sinks", [False, True])
def test_attention_is_the_definition(heads, with_sinks):
    q, k, v, sinks = random_rows(1, (5, heads, 16), (9, 2, 16), (9, 2, 8), (heads,))
    mask = np.random.default_rng(2).random((5, 9)) < 0.6
    mask[3] = False
    sinks = sinks if with_sinks else None
    got = attention(np, q, k, v, mask, 0.25, sinks)
    assert np.allclose(got, by_hand(q, k, v, mask, 0.25, sinks), atol=1e-6)
    assert (got[3] == 0).all()


def test_large_scores_do_not_overflow():
    q, k, v = random_rows(3, (1, 2, 16), (4, 2, 16), (4, 2, 8))
    out = attention(np, q * 1e4, k, v, np.ones((1, 4), bool), 1.0)
    assert np.isfinite(out).all()


@pytest.mark.parametrize(("kind", "window"), KINDS)
def test_masks_let_through_what_the_simulator_counts(kind, window):
    shape = GroupShape(ROW, 4, kind, window)
    group = LayerGroup(kind, (0,), window)
    positions = np.arange(40)
    mask = visible(np, shape, positions, np.append(positions, -1))
    assert mask[:, -1].sum() == 0
    for position in positions:
        seen = np.flatnonzero(mask[position])
        assert len(seen) == attended(group, int(position)) and seen[-1] == position
        assert seen[0] == first_visible(shape, int(position))


@st.composite
def batches(draw):
    """Two sequences whose positions lie in blocks of 4, in any order; queries at their ends."""
    lengths = draw(st.lists(st.integers(1, 25), min_size=2, max_size=2))
    blocks = draw(st.permutations(range(14)))
    held, taken = [], 0
    for length in lengths:
        n = -(-length // 4)
        own = np.array(blocks[taken : taken + n])
        taken += n
        positions = np.arange(length)
        queries = np.arange(max(0, length - draw(st.integers(1, 3))), length)
        held.append(Held(queries, positions, own[positions // 4] * 4 + positions % 4))
    return held


@pytest.mark.parametrize(("kind", "window"), KINDS)
@pytest.mark.parametrize("layout", ["cells", "ranges", "scan", "tables"])
@given(batch=batches())
@settings(max_examples=25, deadline=None)
def test_all_layouts_give_the_same(layout, kind, window, batch):
    shape = GroupShape(ROW, 4, kind, window)
    kept = KVStore(Backend(), 56, ROW, "f32", "f32")
    k, v = random_rows(4, (56, 2, 16), (56, 2, 8))
    kept.write(0, np.arange(56), k, v)
    n = sum(len(each.queries) for each in batch)
    (q,) = random_rows(5, (n, 4, 16))
    layouts = {"cells": cells, "ranges": ranges, "scan": scan_of(56), "tables": tables_of(4)}
    out = np.zeros((n, 4, 8))
    for reading in layouts[layout](shape, batch):
        out[reading.queries] = attend(kept, 0, q[reading.queries], reading, 0.25)
    done = 0
    for held in batch:
        rows = slice(done, done + len(held.queries))
        done = rows.stop
        mask = visible(np, shape, held.queries, held.positions)
        expected = by_hand(q[rows], k[held.cells], v[held.cells], mask, 0.25)
        assert np.allclose(out[rows], expected, atol=1e-5)


def test_a_scan_reads_dead_and_foreign_cells_up_to_the_highest():
    """llama.cpp's n_kv: every query scores the whole range, in multiples of 256 cells."""
    held = [
        Held(np.array([1]), np.arange(2), np.array([300, 7])),
        Held(np.array([0]), np.arange(1), np.array([20])),
    ]
    (reading,) = scan_of(1024)(GroupShape(ROW, 4), held)
    assert reading.index == slice(0, 512) and reading.mask.shape == (2, 512)
    assert np.flatnonzero(reading.mask[0]).tolist() == [7, 300]
    elsewhere = Held(np.array([1]), np.arange(2), np.array([300, 301]))
    one, other = scan_of(256)(GroupShape(ROW, 4), [held[1], elsewhere])
    assert (one.index, other.index) == (slice(0, 256), slice(256, 512))


def test_tables_skip_blocks_behind_the_window():
    held = Held(np.array([18]), np.arange(8, 19), np.arange(8, 19) + 40)
    (reading,) = tables_of(4)(GroupShape(ROW, 4, "swa", 5), [held])
    assert reading.table.tolist() == [13, 14]
    assert reading.mask.sum() == 5


def test_cells_that_form_no_blocks_are_refused():
    with pytest.raises(IntegrityError, match="do not form blocks"):
        block_table(Held(np.array([2]), np.arange(3), np.array([4, 5, 7])), 4)
    with pytest.raises(IntegrityError, match="do not form blocks"):
        block_table(Held(np.array([2]), np.arange(3), np.array([4, 9, 6])), 4)
