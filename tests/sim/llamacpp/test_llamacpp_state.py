"""Saved state: sizes, real bytes, and what they restore."""

from __future__ import annotations

import copy

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from sim.llamacpp.context import Context
from sim.llamacpp.errors import StateMismatch
from sim.llamacpp.geometry import AttentionGeometry, CacheGeometry, RecurrentGeometry
from sim.llamacpp.sizes import ContextParams
from sim.llamacpp.state import AttentionState
from sim.llamacpp.state_bytes import state_from_bytes, state_to_bytes
from sim.llamacpp.window import Window

FULL = AttentionGeometry(2, 64, 32, 64)
STATE = RecurrentGeometry(2, 3, 5)
MODELS = {
    "kv": CacheGeometry("kv", FULL),
    "iswa": CacheGeometry("iswa", FULL, FULL, Window("standard", 12)),
    "rs": CacheGeometry("rs", recurrent=STATE),
    "hybrid": CacheGeometry("hybrid", FULL, recurrent=STATE),
    "hybrid_iswa": CacheGeometry("both", None, FULL, Window("standard", 12), STATE),
}


def filled(model, unified=True, **params):
    given = {
        "n_ctx": 1024,
        "n_seq_max": 3,
        "swa_full": False,
        "kv_unified": unified,
        "n_ubatch": 32,
    }
    c = Context(MODELS[model], ContextParams(**(given | params)))
    c.decode([((0,), 0, 40), ((1,), 0, 7)])
    c.seq_cp(1, 2, -1, -1)
    c.decode([((2,), 7, 3)])
    c.seq_rm(0, 5, 9)
    return c


def same_cells(a, b):
    for left, right in zip(a.parts, b.parts, strict=True):
        if isinstance(left, AttentionState):
            for x, y in zip(left.streams, right.streams, strict=True):
                assert (x is None) == (y is None)
                if x is not None:
                    assert x.pos.tolist() == y.pos.tolist()
                    assert x.owner.tolist() == y.owner.tolist()
                    assert x.id_counts().tolist() == y.id_counts().tolist()
        else:
            assert left.cells == right.cells


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("unified", [True, False])
def test_bytes_round_trip(model, unified):
    c = filled(model, unified)
    for seq in range(3):
        for partial in (False, True):
            saved = c.state_seq_save(seq, partial)
            data = state_to_bytes(saved)
            assert len(data) == saved.nbytes == c.state_seq_size(seq, partial)
            same_cells(state_from_bytes(data, c, whole=False, partial=partial), saved)
    whole = c.state_save()
    data = state_to_bytes(whole)
    assert len(data) == whole.nbytes
    again = state_from_bytes(data, c, whole=True)
    same_cells(again, whole)
    other = filled(model, unified)
    other.clear()
    assert other.state_load(again) == whole.nbytes
    assert [other.seq_pos(s) for s in range(3)] == [c.seq_pos(s) for s in range(3)]


def test_sequence_size_is_counted_as_the_engine_does():
    c = Context(MODELS["kv"], ContextParams(n_ctx=512, n_seq_max=2, kv_unified=True))
    assert c.state_seq_size(0) == 8 + 4 + 4
    c.decode([((0,), 0, 10)])
    rows = 2 * (12 + 10 * 64 * 2) + 2 * (12 + 10 * 32 * 2)
    assert c.state_seq_size(0) == 8 + 4 + 4 + 12 * 10 + 8 + rows


def test_rows_travel_with_the_cells():
    c = filled("hybrid")
    kept = {}

    def source(rows):
        kept[rows] = bytes((hash(rows) + i) % 256 for i in range(rows.nbytes))
        return kept[rows]

    data = state_to_bytes(c.state_seq_save(0), source)
    found = {}
    state_from_bytes(data, c, whole=False, sink=lambda rows, d: found.update({rows: bytes(d)}))
    assert found == kept
    assert {rows.tensor for rows in found} == {"k", "v", "r", "s"}


def test_a_source_of_the_wrong_size_is_not_written():
    with pytest.raises(ValueError, match="bytes given"):
        state_to_bytes(filled("kv").state_seq_save(0), lambda rows: b"")


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_damaged_bytes_are_refused_or_of_the_same_shape(data):
    c = filled("iswa")
    blob = bytearray(state_to_bytes(c.state_seq_save(1)))
    cut = data.draw(st.integers(0, len(blob) - 1))
    with pytest.raises(StateMismatch):
        state_from_bytes(bytes(blob[:cut]), c, whole=False)
    with pytest.raises(StateMismatch, match="too many"):
        state_from_bytes(bytes(blob) + b"x", c, whole=False)


def test_state_of_another_kind_is_refused():
    c = filled("kv")
    with pytest.raises(StateMismatch, match="magic"):
        state_from_bytes(state_to_bytes(c.state_save()), c, whole=False)
    with pytest.raises(StateMismatch, match="another type"):
        other = filled("kv", type_k="q8_0")
        state_from_bytes(state_to_bytes(c.state_seq_save(0)), other, whole=False)
    with pytest.raises(StateMismatch, match="whole"):
        c.state_seq_load(c.state_save(), 0)
    with pytest.raises(StateMismatch, match="whole"):
        c.state_load(c.state_seq_save(0))
    with pytest.raises(StateMismatch, match="caches"):
        c.state_seq_load(filled("iswa").state_seq_save(0), 0)


def test_streams_must_be_as_many():
    saved = filled("kv", unified=False).state_seq_save(0)
    c = filled("kv")
    before = copy.deepcopy(c).seq_pos(0)
    assert c.state_seq_load(saved, 0) == 0
    assert c.seq_pos(0) == before


def test_a_window_cache_saves_what_the_last_token_saw():
    c = filled("iswa")
    (base, swa) = c.state_seq_save(0).parts
    assert base.streams[0].pos.size == 36
    assert swa.streams[0].pos.tolist() == list(range(28, 40))


def test_a_restored_sequence_goes_where_there_is_room():
    c = filled("kv")
    saved = c.state_seq_save(0)
    c.seq_rm(0, -1, -1)
    assert c.state_seq_load(saved, 0) == saved.nbytes
    positions, _ = c.cells_of(0)["kv"]
    assert sorted(positions.tolist()) == [*range(5), *range(9, 40)]


def test_ids_that_cannot_be_named_are_lost():
    c = filled("kv")
    c.seq_cp(0, 77, -1, -1)
    saved = c.state_seq_save(77)
    assert saved.nbytes == c.state_seq_size(77)
    assert c.state_seq_load(saved, 1) == 0
    assert c.seq_pos(1) == (-1, -1)
    whole = c.state_save()
    c.state_load(whole)
    assert c.seq_pos(77) == (-1, -1)
    c.check_integrity()
