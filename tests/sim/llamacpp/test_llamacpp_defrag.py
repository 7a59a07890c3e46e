"""Closing holes: the engine's way against itself written slowly, and sequences moved together."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from sim.llamacpp.batch import Batch
from sim.llamacpp.cells import EMPTY, Cells
from sim.llamacpp.context import Context
from sim.llamacpp.defrag import is_fragmented, moves_by_sequence, moves_into_holes
from sim.llamacpp.dues import OWNER_SHIFT
from sim.llamacpp.geometry import AttentionGeometry, CacheGeometry
from sim.llamacpp.integrity import check_cells
from sim.llamacpp.sizes import ContextParams, Defrag

FULL = AttentionGeometry(layers=2, k_width=32, v_width=32, head_dim=64)


def slow_moves(owned, most):
    """Where each cell goes, hole by hole: the rule of ``defrag_prepare`` on a plain list."""
    n_used = sum(owned)
    top = max((i + 1 for i, own in enumerate(owned) if own), default=0)
    goes, rows, i = {}, 0, 0
    while i < n_used:
        if owned[i]:
            i += 1
            continue
        hole = 1
        while i + hole < n_used and not owned[i + hole]:
            hole += 1
        left = [c for c in range(i, top) if owned[c] and c not in goes]
        cell, filled, in_row = left[-hole], 0, False
        while cell < top and filled < hole:
            if not owned[cell] or cell in goes:
                if rows == most:
                    return goes
                in_row = False
            else:
                goes[cell] = i + filled
                rows += not in_row
                in_row = True
                filled += 1
            cell += 1
        if rows == most:
            return goes
        i += hole
    return goes


@settings(max_examples=300, deadline=None)
@given(st.lists(st.booleans(), max_size=60), st.integers(1, 8))
def test_holes_are_filled_as_the_engine_filled_them(owned, most):
    cells = Cells(max(1, len(owned)))
    where = np.flatnonzero(owned)
    if where.size:
        cells.place(where, np.arange(where.size))
        cells.spans.append(0, 0, where.size)
    moves = moves_into_holes(cells, most)
    assert dict(zip(moves.src.tolist(), moves.dst.tolist(), strict=True)) == slow_moves(owned, most)


@st.composite
def fragmented(draw):
    """Cells of several sequences, some of them shared, with holes."""
    geometry = CacheGeometry("m", FULL)
    context = Context(geometry, ContextParams(n_ctx=256, n_seq_max=6, kv_unified=True))
    for _ in range(draw(st.integers(1, 14))):
        seq = draw(st.integers(0, 5))
        what = draw(st.integers(0, 4))
        if what < 3:
            n = draw(st.integers(1, 20))
            context.memory.place(Batch([((seq,), context.seq_pos(seq)[1] + 1, n)]), 7)
        elif what == 3:
            context.seq_rm(seq, draw(st.integers(-1, 20)), draw(st.integers(-1, 30)))
        else:
            context.seq_cp(seq, draw(st.integers(0, 5)), 0, draw(st.integers(-1, 30)))
    return context.memory.streams[0]


def contents(cells):
    """What each used cell holds, without saying where."""
    used = np.flatnonzero(cells.owner != EMPTY).tolist()
    return {cell: (int(cells.pos[cell]), cells.owners_of(cell)) for cell in used}


@settings(max_examples=150, deadline=None)
@given(fragmented(), st.booleans(), st.integers(1, 5))
def test_what_is_moved_keeps_position_and_owners(cells, by_sequence, most):
    before = contents(cells)
    moves = moves_by_sequence(cells) if by_sequence else moves_into_holes(cells, most)
    cells.move(*moves)
    check_cells(cells)
    goes = dict(zip(moves.src.tolist(), moves.dst.tolist(), strict=True))
    assert contents(cells) == {goes.get(cell, cell): held for cell, held in before.items()}
    if by_sequence:
        assert cells.used_max_p1 == cells.used
        assert not moves_by_sequence(cells).src.size
        owners = cells.owner[: cells.used]
        assert np.count_nonzero(np.diff(owners)) == max(0, len(np.unique(owners)) - 1)


def test_few_cells_and_one_pad_of_holes_are_left_alone():
    cells = Cells(4096)
    cells.place(np.arange(2047), np.arange(2047))
    cells.spans.append(0, 0, 2047)
    cells.free(np.arange(2000))
    assert not is_fragmented(cells, 0.0)
    cells.place(np.array([2559]), np.array([1 << OWNER_SHIFT]))
    # 48 cells and a pad of 256 count as used, of 2,560.
    assert is_fragmented(cells, 0.88)
    assert not is_fragmented(cells, 0.89)


@pytest.mark.parametrize(("layers", "rows"), [(32, 341), (80, 136)])
def test_a_graph_moves_a_row_of_cells_with_six_nodes_a_layer(layers, rows):
    assert Defrag(0.1).rows_at_once(layers) == rows


def test_an_update_closes_holes_and_searches_from_the_start():
    params = ContextParams(
        n_ctx=4096, n_batch=4096, n_ubatch=4096, n_seq_max=2, kv_unified=True, defrag=Defrag(0.1)
    )
    context = Context(CacheGeometry("m", FULL), params)
    context.decode([((0,), 0, 2000), ((1,), 0, 1000)])
    assert not context.has_pending()
    context.seq_rm(0, 100, 1900)
    assert context.has_pending()
    assert context.plan_decode_run([0, 1], 5) == {}
    result = context.decode([((1,), 1000, 1)])
    (moves,) = result.update.moves
    # 1,200 cells stay; the hole from 100 to 1,200 gets the last 1,100 of the others.
    assert (moves.src[0], moves.src[-1], moves.dst[0], moves.dst[-1]) == (1900, 2999, 100, 1199)
    assert result.placed.slots["kv"][0].parts[0][2].tolist() == [1200]
    assert not context.has_pending()
    context.check_integrity()
