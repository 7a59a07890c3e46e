"""Every known defect of the engine: reproduced by default, put right with ``strict``."""

from __future__ import annotations

from pathlib import Path

import pytest

from sim.llamacpp.context import Context
from sim.llamacpp.defects import DEFECTS
from sim.llamacpp.errors import StrictRefusal
from sim.llamacpp.geometry import AttentionGeometry, CacheGeometry, RecurrentGeometry
from sim.llamacpp.sizes import ContextParams
from sim.llamacpp.window import Window

ATTENTION = AttentionGeometry(2, 64, 64, 64)
PLAIN = CacheGeometry("plain", ATTENTION)
WINDOWED = CacheGeometry("windowed", ATTENTION, ATTENTION, Window("standard", 16))
STATE = CacheGeometry("state", recurrent=RecurrentGeometry(2, 8, 8))


def context(model, strict, **params):
    given = {"n_ctx": 512, "n_batch": 256, "n_seq_max": 4, "swa_full": False, "n_ubatch": 32}
    return Context(model, ContextParams(**(given | params), strict=strict))


def head_of_another_stream(strict):
    c = context(PLAIN, strict, n_seq_max=2)
    c.decode([((0,), 0, 10)])
    c.decode([((1,), 0, 200)])
    assert c.decode([((1,), 200, 100)]).ret == 1
    return c.memory.heads[1]


def purges_of_a_failed_decode(strict):
    c = context(WINDOWED, strict, kv_unified=True, n_ubatch=8)
    c.decode([((0, 1), 0, 230)])
    c.decode([((2,), 0, 6)])
    c.seq_rm(2, 5, 6)
    c.decode([((2,), 5, 21)])
    c.memory.swa.heads[0] = c.memory.base.heads[0] = 235
    before = c.seq_pos(2)
    assert c.decode([((2,), 26, 2), ((3,), 0, 60)]).ret == 1
    return before == c.seq_pos(2)


def range_of_a_copy_between_streams(strict):
    c = context(PLAIN, strict)
    c.decode([((0,), 0, 10)])
    try:
        c.seq_cp(0, 2, 0, 0)
    except StrictRefusal:
        return "refused"
    return c.seq_pos(2)


def keep_in_one_stream(strict):
    c = context(PLAIN, strict)
    c.decode([((0,), 0, 10)])
    c.decode([((1,), 0, 5)])
    c.seq_keep(0)
    return c.seq_pos(1)


def direction_of_a_divisions_shift(strict):
    c = context(PLAIN, strict)
    c.decode([((0,), 0, 5)])
    c.seq_div(0, 4, -1, 2)
    (shift,) = c.decode([((1,), 0, 1)]).update.shifts
    return shift.cells.tolist(), shift.amounts.tolist()


def copies_after_clear(strict):
    c = context(PLAIN, strict)
    c.decode([((0,), 0, 10)])
    c.seq_cp(0, 1, -1, -1)
    c.clear()
    return len(c.decode([((0,), 0, 1)]).update.copies)


def saving_while_a_shift_pends(strict):
    c = context(PLAIN, strict)
    c.decode([((0,), 0, 10)])
    c.seq_add(0, 0, -1, 5)
    try:
        (part,) = c.state_seq_save(0).parts
    except StrictRefusal:
        return "refused"
    return int(part.streams[0].pos[0])


def restoring_nothing(strict):
    c = context(PLAIN, strict, kv_unified=True)
    c.decode([((0,), 0, 10)])
    assert c.state_seq_load(c.state_seq_save(3), 0) > 0
    return c.seq_pos(0)


def target_of_a_failed_restore(strict):
    c = context(PLAIN, strict, n_ctx=256, kv_unified=True)
    c.decode([((0,), 0, 100)])
    saved = c.state_seq_save(0)
    c.decode([((1,), 0, 100)])
    c.decode([((2,), 0, 50)])
    assert c.state_seq_load(saved, 2) == 0
    return c.seq_pos(2)


def rollback_of_a_shared_state(strict):
    c = context(STATE, strict, n_rs_seq=3)
    c.decode([((0,), 0, 10)])
    c.seq_cp(0, 1, -1, -1)
    return c.seq_rm(1, 8, -1), c.seq_pos(0)[1]


def everybodys_recurrent_states(strict):
    c = context(STATE, strict)
    c.decode([((0,), 0, 10)])
    return c.seq_rm(-1, -1, -1), c.seq_pos(0)[1]


OUTCOMES = {
    head_of_another_stream: (10, 200),
    purges_of_a_failed_decode: (False, True),
    range_of_a_copy_between_streams: ((0, 9), "refused"),
    keep_in_one_stream: ((0, 4), (-1, -1)),
    direction_of_a_divisions_shift: (([4], [2]), ([4], [-2])),
    copies_after_clear: (1, 0),
    saving_while_a_shift_pends: (5, "refused"),
    restoring_nothing: ((0, 9), (-1, -1)),
    target_of_a_failed_restore: ((-1, -1), (0, 49)),
    rollback_of_a_shared_state: ((True, 7), (False, 9)),
    everybodys_recurrent_states: ((False, 9), (True, -1)),
}


@pytest.mark.parametrize("scene", OUTCOMES, ids=lambda scene: scene.__name__)
def test_default_and_strict(scene):
    engine, strict = OUTCOMES[scene]
    assert scene(strict=False) == engine
    assert scene(strict=True) == strict


def test_every_listed_defect_has_a_scene():
    listed = {d.name.replace(" ", "_").replace("'", "") for d in DEFECTS}
    assert listed == {scene.__name__ for scene in OUTCOMES}


def test_every_defect_is_documented_with_its_source():
    page = Path(__file__).parents[3] / "docs" / "llamacpp.md"
    words = " ".join(page.read_text().split())
    for defect in DEFECTS:
        assert f"**{defect.name}** ({defect.source})" in words
        assert defect.engine[1:] in words
        assert defect.strict[1:] in words
