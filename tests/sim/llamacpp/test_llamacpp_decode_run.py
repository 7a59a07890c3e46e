"""Many decode steps at once must end where single steps end, cell for cell, head for head."""

from __future__ import annotations

import copy

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from sim.llamacpp.batch import Batch, Decodes
from sim.llamacpp.context import Context
from sim.llamacpp.geometry import AttentionGeometry, CacheGeometry, RecurrentGeometry
from sim.llamacpp.kv_cache import KVCache
from sim.llamacpp.sizes import AttentionRows, ContextParams
from sim.llamacpp.ubatch import Ubatch, split_equal, split_simple
from sim.llamacpp.window import UNBOUNDED, Window

ROWS = AttentionRows(AttentionGeometry(1, 32, 32, 64), "f16", "f16", False)
SEQS = 5


def decode(cache, runs, n_ubatch=64):
    batch = Batch(runs)
    if cache.n_stream == 1:
        ubatches = split_simple(batch, n_ubatch)
    else:
        ubatches = split_equal(batch, n_ubatch, True)
    placement = cache.prepare(ubatches)
    if placement is None:
        return None
    placement.commit()
    return placement.slots


def decodes(seqs, firsts):
    return Decodes(np.array(seqs, np.intp), np.array(firsts, np.int64))


def single_step(cache, seqs, firsts):
    """One token of every sequence, all in one ubatch if they share a stream."""
    runs = [((seq,), first, 1) for seq, first in zip(seqs, firsts, strict=True)]
    if cache.n_stream == 1:
        placement = cache.prepare([Ubatch(runs, len(runs), False)])
        placement.commit()
        return placement.slots[0].parts[0][2].tolist()
    slots = decode(cache, runs)
    taken = {part[0]: int(part[2][0]) for slot in slots for part in slot.parts}
    return [taken[seq] for seq in seqs]


def look(cache):
    return [
        (
            c.pos.tolist(),
            [c.owners_of(i) for i in range(c.size)],
            c.used,
            c.used_max_p1,
            [c.pos_min(seq) for seq in range(SEQS)],
            c.spans.end.tolist(),
            c.spans.counts().tolist(),
        )
        for c in cache.streams
    ], list(cache.heads)


@st.composite
def prepared(draw):
    """A cache in which things have happened."""
    cache = KVCache(
        "kv",
        ROWS,
        size=draw(st.integers(4, 60)),
        n_stream=draw(st.sampled_from([1, 1, SEQS])),
        n_seq_max=SEQS,
        window=draw(
            st.sampled_from(
                [
                    UNBOUNDED,
                    UNBOUNDED,
                    Window("standard", 3),
                    Window("standard", 8),
                    Window("chunked", 7),
                ]
            )
        ),
        slots=draw(st.sampled_from(["scattered", "scattered", "contiguous"])),
    )
    for _ in range(draw(st.integers(0, 12))):
        seq = draw(st.integers(0, SEQS - 1))
        what = draw(st.integers(0, 9))
        if what < 6:
            n = draw(st.integers(1, 15))
            decode(cache, [((seq,), cache.seq_pos_max(seq) + 1, n)], draw(st.integers(1, 9)))
        elif what < 8:
            cache.seq_rm(seq, draw(st.integers(-1, 20)), draw(st.integers(-1, 20)))
        elif what == 8 and cache.n_stream == 1:
            cache.seq_cp(seq, draw(st.integers(0, SEQS - 1)), 0, draw(st.integers(-1, 20)))
        else:
            cache.seq_add(seq, draw(st.integers(0, 9)), -1, draw(st.integers(-3, 3)))
    cache.update()
    if draw(st.booleans()):
        cache.heads = [draw(st.integers(0, cache.size)) for _ in cache.heads]
    return cache


@settings(max_examples=150, deadline=None)
@given(
    prepared(), st.permutations(range(SEQS)), st.integers(1, SEQS), st.integers(1, 90), st.data()
)
def test_steps_at_once_equal_single_steps(cache, order, width, n, data):
    seqs = list(order[:width])
    firsts = [cache.seq_pos_max(seq) + 1 for seq in seqs]
    before = look(cache)
    plan = cache.plan_decode_run(decodes(seqs, firsts), n)["kv"]
    assert look(cache) == before
    assert plan.steps <= n
    steps = data.draw(st.integers(0, plan.steps))
    at_once, singly = copy.deepcopy(cache), copy.deepcopy(cache)
    at_once.apply_decode_run({"kv": plan}, steps)
    for j in range(steps):
        assert single_step(singly, seqs, [first + j for first in firsts]) == plan.cells[j].tolist()
    assert look(at_once) == look(singly)
    at_once.check_integrity()


@settings(max_examples=100, deadline=None)
@given(prepared(), st.integers(1, SEQS), st.integers(1, 60))
def test_without_a_window_a_plan_ends_only_where_cells_do(cache, width, n):
    seqs = list(range(width))
    if cache.window.bounded or cache.slots == "contiguous":
        return
    plan = cache.plan_decode_run(decodes(seqs, [cache.seq_pos_max(s) + 1 for s in seqs]), n)["kv"]
    if cache.n_stream == 1:
        room = (cache.size - cache.streams[0].used) // width
    else:
        room = min(cache.size - cache.streams[s].used for s in seqs)
    assert plan.steps == min(n, room)


def test_a_full_window_cache_is_planned_round_and_round():
    """In the steady state every token takes the cell of one that just left the window."""
    window = Window("standard", 16)
    cache = KVCache("swa", ROWS, size=256, n_stream=1, n_seq_max=3, window=window)
    for seq in range(3):
        assert decode(cache, [((seq,), 0, 100)]) is not None
    plan = cache.plan_decode_run(decodes([0, 1, 2], [100] * 3), 2000)
    assert plan["swa"].steps == 2000
    singly = copy.deepcopy(cache)
    cache.apply_decode_run(plan, 2000)
    for j in range(2000):
        single_step(singly, [0, 1, 2], [100 + j] * 3)
    assert look(cache) == look(singly)


def test_a_plan_is_not_made_where_positions_do_not_follow():
    cache = KVCache("kv", ROWS, size=20, n_stream=1, n_seq_max=2)
    decode(cache, [((0,), 0, 5)])
    assert cache.plan_decode_run(decodes([0], [6]), 3)["kv"].steps == 0
    assert cache.plan_decode_run(decodes([0], [5]), 3)["kv"].steps == 3
    assert cache.plan_decode_run(decodes([1], [9]), 3)["kv"].steps == 3


def test_a_plan_cannot_be_carried_out_beyond_its_end():
    cache = KVCache("kv", ROWS, size=20, n_stream=1, n_seq_max=2)
    plan = cache.plan_decode_run(decodes([0], [0]), 3)
    with pytest.raises(ValueError, match="3 steps"):
        cache.apply_decode_run(plan, 4)


FULL, SWA = AttentionGeometry(1, 32, 32, 64), AttentionGeometry(2, 32, 32, 64)
STATE = RecurrentGeometry(1, 16, 16)
MODELS = {
    "kv": CacheGeometry("m", FULL),
    "iswa": CacheGeometry("m", FULL, SWA, Window("standard", 24)),
    "chunked": CacheGeometry("m", FULL, SWA, Window("chunked", 50)),
    "rs": CacheGeometry("m", recurrent=STATE),
    "hybrid": CacheGeometry("m", FULL, recurrent=STATE),
    "hybrid_iswa": CacheGeometry("m", FULL, SWA, Window("standard", 24), STATE),
}


def look_at(context):
    recurrent = context.recurrent
    cells = None
    if recurrent is not None:
        c = recurrent.cells
        cells = (c.pos, c.owners, c.tails, c.sources, c.rolled_back, c.head, c.used)
    return [look(c) for c in context.attention.values()], cells


@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from(sorted(MODELS)),
    st.booleans(),
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, 60)), min_size=1, max_size=8),
    st.sets(st.integers(0, 3), min_size=1),
    st.integers(1, 150),
    st.booleans(),
)
def test_contexts_of_every_kind(model, unified, prompts, seqs, n, settled):
    params = ContextParams(
        n_ctx=1024, n_batch=128, n_ubatch=32, n_seq_max=4, kv_unified=unified, swa_full=False
    )
    context = Context(MODELS[model], params)
    for seq, length in prompts:
        if seq == 3 and context.seq_pos(0)[1] >= 0:
            context.seq_cp(0, 1, -1, -1)
        context.decode([((seq,), context.seq_pos(seq)[1] + 1, length)])
    order = sorted(seqs)
    if settled:
        context.decode([((seq,), context.seq_pos(seq)[1] + 1, 1) for seq in order])
    plan = context.plan_decode_run(order, n)
    if not plan:
        return
    steps = min(run.steps for run in plan.values())
    at_once, singly = copy.deepcopy(context), copy.deepcopy(context)
    at_once.apply_decode_run(plan, steps)
    for _ in range(steps):
        runs = [((seq,), singly.seq_pos(seq)[1] + 1, 1) for seq in order]
        assert singly.decode(runs).ret == 0
    assert look_at(at_once) == look_at(singly)
    at_once.check_integrity()


def test_a_settled_context_of_every_kind_is_planned():
    for name, model in MODELS.items():
        context = Context(model, ContextParams(n_ctx=1024, n_seq_max=4, kv_unified=True))
        for _ in range(3):
            runs = [((seq,), context.seq_pos(seq)[1] + 1, 1) for seq in range(4)]
            assert context.decode(runs).ret == 0
        plan = context.plan_decode_run([0, 1, 2, 3], 100)
        assert plan, name
        assert {run.steps for run in plan.values()} == {100}


def test_states_that_still_move_are_not_planned():
    """Sharers of a state part at the next step; after it, nothing moves any more."""
    context = Context(MODELS["rs"], ContextParams(n_ctx=1024, n_seq_max=4))
    context.decode([((0,), 0, 5)])
    context.seq_cp(0, 1, -1, -1)
    assert context.plan_decode_run([0, 1], 9) == {}
    context.decode([((0,), 5, 1), ((1,), 5, 1)])
    assert context.plan_decode_run([0, 1], 9)["rs"].steps == 9
