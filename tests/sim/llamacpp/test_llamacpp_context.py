"""Context sizes, memory bytes, pending work, and calls that would end the engine."""

from __future__ import annotations

import pytest

from sim.llamacpp.batch import Refusal
from sim.llamacpp.context import Context
from sim.llamacpp.errors import ContextRefused, EngineAborts, EngineUndefined, IntegrityError
from sim.llamacpp.geometry import AttentionGeometry, CacheGeometry, RecurrentGeometry
from sim.llamacpp.sizes import ContextParams, context_sizes
from sim.llamacpp.window import Window

FULL = AttentionGeometry(2, 128, 128, 64)
PLAIN = CacheGeometry("plain", FULL)
ALL_SWA = CacheGeometry("allswa", None, FULL, Window("standard", 16))


def sizes(**params):
    s = context_sizes(ContextParams(**params))
    return s.n_ctx, s.n_ctx_seq, s.n_batch, s.n_ubatch, s.n_stream


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({"n_ctx": 300, "n_seq_max": 3}, (768, 256, 300, 300, 3)),
        ({"n_ctx": 300, "n_seq_max": 3, "kv_unified": True}, (512, 512, 300, 300, 1)),
        ({"n_ctx": 300}, (512, 512, 300, 300, 1)),
        ({"n_ctx": 4096, "n_batch": 512, "n_ubatch": 0}, (4096, 4096, 512, 512, 1)),
        ({"n_ctx": 1000, "n_batch": 64, "n_ubatch": 512}, (1024, 1024, 64, 64, 1)),
        ({"n_ctx": 1000, "n_seq_max": 3}, (1536, 512, 1000, 512, 3)),
    ],
)
def test_context_sizes(params, expected):
    assert sizes(**params) == expected


def test_contexts_that_cannot_be():
    with pytest.raises(EngineAborts, match="n_outputs_max"):
        sizes(n_ctx=1, n_seq_max=4)
    with pytest.raises(ContextRefused, match="flash attention"):
        sizes(type_v="q8_0")
    with pytest.raises(ContextRefused, match="256"):
        sizes(n_seq_max=257)
    with pytest.raises(ContextRefused, match="q7_9"):
        sizes(type_k="q7_9")
    with pytest.raises(ContextRefused, match="training"):
        sizes(n_ctx=0)
    assert (
        Context(CacheGeometry("m", FULL, n_ctx_train=900), ContextParams(n_ctx=0)).sizes.n_ctx
        == 1024
    )


def test_memory_of_every_cache():
    model = CacheGeometry("m", FULL, FULL, Window("standard", 16), RecurrentGeometry(3, 10, 20))
    c = Context(
        model, ContextParams(n_ctx=1024, n_ubatch=64, n_seq_max=2, swa_full=False, n_rs_seq=1)
    )
    held = c.memory_breakdown()
    assert held["base"].total == 2 * (2 * 512) * 2 * 128 * 2
    assert held["swa"].total == 2 * (2 * 256) * 2 * 128 * 2
    assert (held["rs"].first, held["rs"].second) == (2 * 2 * 3 * 4 * 10, 2 * 2 * 3 * 4 * 20)


def test_a_model_must_cache_something():
    with pytest.raises(ValueError, match="no layer"):
        CacheGeometry("none")
    with pytest.raises(ValueError, match="window"):
        CacheGeometry("odd", FULL, FULL)


@pytest.mark.parametrize(
    "call",
    [
        lambda c: c.seq_rm(-2, -1, -1),
        lambda c: c.seq_rm(256, -1, -1),
        lambda c: c.seq_cp(-1, 2, -1, -1),
        lambda c: c.seq_cp(0, 256, -1, -1),
        lambda c: c.seq_keep(-1),
        lambda c: c.seq_add(-1, 0, -1, 2),
        lambda c: c.seq_div(-1, 0, -1, 2),
        lambda c: c.seq_div(0, 0, -1, 0),
        lambda c: c.seq_pos(-1),
        lambda c: c.decode([((0,), 10, 17)]),
    ],
)
def test_calls_that_end_the_engine_change_nothing(call):
    c = Context(PLAIN, ContextParams(n_ctx=256, n_batch=16, n_seq_max=4, kv_unified=True))
    c.decode([((0,), 0, 10)])
    with pytest.raises(EngineAborts):
        call(c)
    assert c.seq_pos(0) == (0, 9)
    c.check_integrity()


def test_a_division_that_makes_positions_negative_is_refused():
    c = Context(PLAIN, ContextParams(n_ctx=256))
    c.decode([((0,), 0, 10)])
    with pytest.raises(EngineUndefined):
        c.seq_div(0, 0, -1, -2)


def test_streams_know_only_their_own_sequences():
    c = Context(PLAIN, ContextParams(n_ctx=512, n_seq_max=2))
    for call in (lambda: c.seq_rm(2, -1, -1), lambda: c.seq_cp(0, 1, 3, 7), lambda: c.seq_pos(2)):
        with pytest.raises(EngineAborts):
            call()


@pytest.mark.parametrize(
    ("model", "type_k", "reason"),
    [
        (CacheGeometry("m", AttentionGeometry(2, 64, 64, 32)), "q8_0", "heads of 32"),
        (PLAIN, "bf16", "bf16"),
        (ALL_SWA, "f16", "no layers"),
    ],
)
def test_shifts_that_the_engine_cannot_carry_out(model, type_k, reason):
    c = Context(model, ContextParams(n_ctx=256, type_k=type_k, n_seq_max=2, kv_unified=True))
    c.decode([((0,), 0, 10)])
    c.seq_add(0, 0, -1, 3)
    with pytest.raises(EngineAborts, match=reason):
        c.decode([((1,), 0, 1)])
    assert c.has_pending()


def test_shifts_that_the_engine_can_carry_out():
    for model, type_k in (
        (PLAIN, "q8_0"),
        (CacheGeometry("m", AttentionGeometry(2, 64, 64, 32, rope=False)), "q8_0"),
    ):
        c = Context(model, ContextParams(n_ctx=256, type_k=type_k))
        c.decode([((0,), 0, 4)])
        c.seq_add(0, 2, -1, 3)
        c.seq_add(0, 0, -1, 1)
        assert c.has_pending()
        assert c.plan_decode_run([0], 5) == {}
        (shift,) = c.decode([((0,), 8, 1)]).update.shifts
        assert shift.cells.tolist() == [0, 1, 2, 3]
        assert shift.amounts.tolist() == [1, 1, 4, 4]
        assert not c.has_pending()


def test_what_a_decode_tells():
    c = Context(PLAIN, ContextParams(n_ctx=512, n_seq_max=2, kv_unified=True, n_ubatch=300))
    done = c.decode([((0,), 0, 310)])
    assert (done.ret, [u.n_tokens for u in done.placed.ubatches]) == (0, [300, 10])
    slots = done.placed.slots["kv"]
    assert [s.n_kv for s in slots] == [512, 512]
    assert slots[1].parts[0][2].tolist() == list(range(300, 310))
    refused = c.decode([((1,), 0, 300)])
    assert (refused.ret, refused.refusal) == (1, Refusal.NO_SLOT)
    assert c.decode([((2,), 0, 1)]).refusal is Refusal.SEQ_ID
    usage = c.usage()["kv"]
    assert (usage.used, usage.free, usage.largest_free_run) == (310, 202, 202)


def test_contiguous_slots_do_not_scatter():
    def largest(slots):
        c = Context(PLAIN, ContextParams(n_ctx=256, n_seq_max=2, kv_unified=True, slots=slots))
        c.decode([((0,), 0, 250)])
        c.seq_rm(0, 10, 14)
        return c.decode([((1,), 0, 8)]).ret

    assert (largest("scattered"), largest("contiguous")) == (0, 1)


def test_n_kv_is_padded_and_at_least_one_pad():
    c = Context(PLAIN, ContextParams(n_ctx=1024))
    cache = c.memory
    assert cache.n_kv([0]) == 256
    c.decode([((0,), 0, 257)])
    assert cache.n_kv([0]) == 512


def test_integrity_names_what_is_broken():
    c = Context(PLAIN, ContextParams(n_ctx=256))
    c.decode([((0,), 0, 10)])
    c.check_integrity()
    c.memory.streams[0].pos[3] = 77
    with pytest.raises(IntegrityError, match="highest positions"):
        c.check_integrity()
