"""Break one rule of the cache at a time: the replay of recordings must notice every one.

Recordings: a choice of those in ``../shared`` that shows every rule, or else the project's own.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import pytest

import backends.conformance.llamacpp as replay_module
import backends.conformance.llamacpp_sizes as sizes_replay
from backends.conformance.recording import find_recordings, read_records
from sim.llamacpp import (
    build,
    context,
    iswa,
    kv_cache,
    kv_state,
    recurrent,
    sequence_ops,
    streams,
    ubatch,
)
from sim.llamacpp import sizes as sizes_module
from sim.llamacpp.batch import Refusal
from sim.llamacpp.dues import OPEN, Dues
from sim.llamacpp.errors import LlamaCppError
from sim.llamacpp.hybrid import HybridCache
from sim.llamacpp.iswa import ISWACache
from sim.llamacpp.kv_cache import KVCache
from sim.llamacpp.placement import Placement
from sim.llamacpp.recurrent import RecurrentCache
from sim.llamacpp.window import Window

HERE = Path(__file__).parent
OWN = HERE / "recordings" / "llamacpp"
ROOT = HERE.parents[1]
SHARED = Path(os.environ.get("KVLAB_SHARED", ROOT.parent / "shared")) / "conformance" / "llamacpp"
CHOICE = [
    "probes/arg_cp_p1_10_rs.jsonl.gz",
    "probes/arg_decode_shared_hyb_u.jsonl.gz",
    "probes/arg_rm_seq-1_all_u.jsonl.gz",
    "probes/arg_keep_empty_s.jsonl.gz",
    "probes/kshift_bf16.jsonl.gz",
    "probes/rs_rollback_shared.jsonl.gz",
    "probes/arg_state_empty_into_live_u.jsonl.gz",
    "probes/cp_streams_pending_negative.jsonl.gz",
    "probes/state_all_compacts.jsonl.gz",
    "probes/seq_ge_n_seq_max.jsonl.gz",
    "probes/fail_head_bug_streams.jsonl.gz",
    "probes/chunked_boundary.jsonl.gz",
    "probes/prepare_purge_lost.jsonl.gz",
    "corpus/jamba_s_001002.jsonl.gz",
    "corpus/jamba_u_001003.jsonl.gz",
    "corpus/gemma2_s_001006.jsonl.gz",
    "corpus/lfm2_s_001004.jsonl.gz",
    "memsize.jsonl.gz",
]


#: Rules that the project's own recordings need not show: rare, or of another library.
ONLY_SHARED = {
    "window_cache_does_not_grow_with_sequences",
    "clearing_drops_queued_copies",
    "rollback_spares_sharers",
    "restoring_nothing_removes_the_target",
}


@cache
def recordings():
    chosen = [SHARED / name for name in CHOICE]
    if not SHARED.is_dir() and OWN.is_dir():
        chosen = sorted(find_recordings(OWN), key=lambda path: path.stat().st_size)
    return [(path, list(read_records(path))) for path in chosen if path.exists()]


def first_mismatch(monkeypatch):
    """What the replay of all recordings notices first, if anything."""
    for path, records in recordings():
        monkeypatch.setattr(replay_module, "read_records", lambda _, found=records: iter(found))
        monkeypatch.setattr(replay_module, "first_record", lambda _, found=records: found[0][1])
        monkeypatch.setattr(sizes_replay, "read_records", lambda _, found=records: iter(found))
        try:
            report = replay_module.replay(path)
        except (LlamaCppError, ArithmeticError, LookupError, TypeError, ValueError) as error:
            return f"{type(error).__name__}: {error}"
        if report.mismatches:
            return report.first
    return None


MUTATIONS = {}


def mutation(function):
    MUTATIONS[function.__name__] = function
    return function


def wrap(patch, owner, name, change):
    """Replace ``owner.name`` by ``change(original, *its arguments)``."""
    original = getattr(owner, name)
    patch.setattr(owner, name, lambda *args, **kwargs: change(original, *args, **kwargs))


# ---- section 2: sizes


@mutation
def contexts_are_rounded_down(patch):
    wrap(patch, sizes_module, "padded", lambda original, n, to=256: max(to, n // to * to))


@mutation
def window_cache_does_not_grow_with_sequences(patch):
    def one_window(original, window, params, sizes):
        if params.swa_full:
            return sizes.n_ctx_seq
        return sizes_module.padded(min(sizes.n_ctx_seq, window + sizes.n_ubatch))

    wrap(patch, build, "swa_cells", one_window)


# ---- section 3: batch checks


def ignoring(refusal):
    def change(original, *args):
        found = original(*args)
        return None if found is refusal else found

    return change


@mutation
def positions_need_not_follow(patch):
    wrap(patch, context, "refusal_of", ignoring(Refusal.NOT_CONSECUTIVE))


@mutation
def positions_may_decrease(patch):
    wrap(patch, context, "refusal_of", ignoring(Refusal.DECREASING))


@mutation
def positions_may_have_holes(patch):
    wrap(patch, context, "refusal_of", ignoring(Refusal.HOLE))


@mutation
def unified_contexts_take_any_id(patch):
    wrap(patch, context, "refusal_of", lambda original, b, m, n: original(b, m, 256))


@mutation
def pending_work_is_done_before_the_checks(patch):
    def eager(original, self, runs):
        self.memory.update()
        return original(self, runs)

    wrap(patch, context.Context, "decode", eager)


# ---- section 4: finding and applying


@mutation
def head_never_goes_back(patch):
    patch.setattr(kv_cache, "start_of_search", lambda head, used, n: head)


@mutation
def head_goes_back_sooner(patch):
    patch.setattr(kv_cache, "start_of_search", lambda head, used, n: 0 if head > used else head)


@mutation
def search_begins_at_cell_0(patch):
    patch.setattr(kv_cache, "start_of_search", lambda head, used, n: 0)


@mutation
def slots_are_contiguous(patch):
    patch.setattr(kv_cache, "find_scattered", kv_cache.find_contiguous)


@mutation
def head_stays_on_the_last_cell(patch):
    def change(original, self, slot):
        step = original(self, slot)
        for stream, _, _ in slot.parts:
            self.heads[stream] -= 1
        return step

    wrap(patch, KVCache, "apply", change)


@mutation
def masked_cells_are_not_taken(patch):
    patch.setattr(Dues, "can_be_taken", lambda self, start, stop: self.moment[start:stop] <= OPEN)


@mutation
def cells_are_masked_one_token_late(patch):
    wrap(patch, Window, "last_seer", lambda original, self, at: original(self, at) + 1)


@mutation
def chunked_windows_slide(patch):
    wrap(
        patch,
        Window,
        "last_seer",
        lambda original, self, at: original(Window("standard", self.n), at),
    )


@mutation
def nothing_is_purged(patch):
    patch.setattr(KVCache, "_purge", lambda self, step, seq, highest: None)


@mutation
def a_failed_decode_puts_purges_back(patch):
    def change(original, self):
        for step in reversed(self._steps):
            for stream, before in reversed(step.purged):
                self._cache.streams[stream].restore(before)
        original(self)

    wrap(patch, Placement, "roll_back", change)


@mutation
def a_failed_decode_restores_the_right_heads(patch):
    def change(original, self):
        heads = list(self._steps[0].heads) if self._steps else None
        original(self)
        if heads is not None:
            self._cache.heads[:] = heads

    wrap(patch, Placement, "roll_back", change)


# ---- section 5: splitting


@mutation
def sequences_need_not_be_consecutive(patch):
    def change(original, batch, n_ubatch, sequential, n_keep_tail=0):
        if sequential and batch.coupled:
            return None
        return original(batch, n_ubatch, False, n_keep_tail)

    for module in (kv_cache, iswa):
        wrap(patch, module, "split_equal", change)


@mutation
def iswa_splits_only_in_batch_order(patch):
    patch.setattr(iswa, "split_equal", lambda batch, n, sequential: ubatch.split_simple(batch, n))


@mutation
def iswa_splits_only_into_equal_sets(patch):
    wrap(
        patch,
        ISWACache,
        "place",
        lambda original, self, *args: (setattr(self, "unified", False), original(self, *args))[1],
    )


@mutation
def hybrids_split_like_recurrent_models(patch):
    def change(original, self, attention, recurrent):
        original(self, attention, recurrent)
        recurrent.sequential = True

    wrap(patch, HybridCache, "__init__", change)


# ---- section 6: sequence operations on attention caches


@mutation
def removing_does_not_move_the_head(patch):
    patch.setattr(KVCache, "_lower_head", lambda self, stream, freed: None)


@mutation
def removing_everybody_spares_other_streams(patch):
    def change(original, self, seq, p0, p1):
        return original(self, 0 if seq == -1 else seq, p0, p1)

    wrap(patch, KVCache, "seq_rm", change)


@mutation
def adding_leaves_the_head(patch):
    def change(original, self, seq, p0, p1, by):
        heads = list(self.heads)
        original(self, seq, p0, p1, by)
        self.heads[:] = heads

    wrap(patch, KVCache, "seq_add", change)


@mutation
def negative_positions_stay_at_zero(patch):
    def change(original, cells, seq, p0, p1, by):
        lowest = cells.pos_min(seq)
        return original(cells, seq, p0, p1, max(by, -lowest))

    wrap(patch, sequence_ops, "move_positions", change)


@mutation
def dividing_rounds_up(patch):
    def change(original, cells, seq, p0, p1, by, sign):
        return original(cells, seq, p0, p1, by + 1, sign)

    wrap(patch, sequence_ops, "divide_positions", change)


@mutation
def keeping_clears_other_streams(patch):
    def change(original, self, seq):
        original(self, seq)
        for stream, cells in enumerate(self.streams):
            if stream != self.stream_of(seq):
                cells.clear()

    wrap(patch, KVCache, "seq_keep", change)


@mutation
def copying_between_streams_leaves_the_head(patch):
    def change(original, self, src, dst, p0, p1):
        head = self.heads[self.stream_of(dst)]
        original(self, src, dst, p0, p1)
        self.heads[self.stream_of(dst)] = head

    wrap(patch, KVCache, "seq_cp", change)


@mutation
def shifts_are_carried_out_at_once(patch):
    def change(original, self, *args):
        original(self, *args)
        self.update()

    wrap(patch, KVCache, "seq_add", change)


@mutation
def any_shift_can_be_carried_out(patch):
    patch.setattr(streams, "check_shiftable", lambda cache, rows: None)


@mutation
def clearing_drops_queued_copies(patch):
    wrap(patch, KVCache, "clear", lambda original, self: (original(self), self._copies.clear()))


# ---- sections 7 and 8: recurrent and hybrid


@mutation
def recurrent_tails_can_be_removed(patch):
    def change(original, self, seq, p0, p1):
        return original(self, seq, p0, p1) or (0 <= seq < self.size and p0 > 0)

    wrap(patch, RecurrentCache, "seq_rm", change)


@mutation
def recurrent_copies_obey_ranges(patch):
    def change(original, self, src, dst, p0, p1):
        if p0 <= 0 and p1 < 0:
            original(self, src, dst, p0, p1)

    wrap(patch, RecurrentCache, "seq_cp", change)


@mutation
def shared_states_stay_with_the_id_listed_first(patch):
    patch.setattr(recurrent, "as_met", lambda ids: ids)


@mutation
def rollback_spares_sharers(patch):
    def change(original, self, seq, p0, p1):
        tail = self.cells.tails[seq] if self.has_tail(seq) else -1
        shared = tail >= 0 and self.cells.owners[tail] != 1 << seq
        pos = self.cells.pos[tail]
        done = original(self, seq, p0, p1)
        if shared and p0 > 0:
            self.cells.pos[tail] = pos
        return done

    wrap(patch, RecurrentCache, "seq_rm", change)


@mutation
def hybrids_remove_attention_first(patch):
    def change(original, self, *args):
        return self.attention.seq_rm(*args) and self.recurrent.seq_rm(*args)

    wrap(patch, HybridCache, "seq_rm", change)


@mutation
def hybrids_report_the_lowest_of_both(patch):
    def change(original, self, seq):
        return min(self.attention.seq_pos_min(seq), self.recurrent.seq_pos_min(seq))

    wrap(patch, HybridCache, "seq_pos_min", change)


# ---- section 9: state


@mutation
def saving_uses_the_window_of_the_next_token(patch):
    def change(original, self, at):
        return original(self, at + 1)

    wrap(patch, Window, "last_masked", change)


@mutation
def restoring_nothing_removes_the_target(patch):
    def change(original, cache, state, seq):
        cache.seq_rm(seq, -1, -1)
        return original(cache, state, seq)

    wrap(patch, KVCache, "_load_sequence", change)


@mutation
def a_failed_restore_keeps_the_target(patch):
    def change(original, self, states, seq):
        before = self.snapshot()
        done = original(self, states, seq)
        if not done:
            self.restore(before)
        return done

    wrap(patch, KVCache, "load", change)


@mutation
def whole_state_goes_back_to_its_cells(patch):
    def change(original, cache, state):
        heads = list(cache.heads)
        done = original(cache, state)
        cache.heads[:] = heads
        return done

    wrap(patch, kv_cache, "fill_all", change)


@mutation
def partial_state_is_whole(patch):
    def change(original, self, seq, partial):
        return original(self, seq, False)

    wrap(patch, ISWACache, "save", change)
    wrap(patch, HybridCache, "save", change)


@mutation
def state_has_no_ids(patch):
    patch.setattr(kv_state.StreamState, "id_counts", lambda self: self.owner * 0)


def test_the_unbroken_cache_has_no_mismatch(monkeypatch):
    if not recordings():
        pytest.skip("no llama.cpp recordings: neither the project's own nor ../shared")
    assert first_mismatch(monkeypatch) is None


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_broken_rule_is_noticed(name, monkeypatch):
    if not recordings():
        pytest.skip("no llama.cpp recordings: neither the project's own nor ../shared")
    if name in ONLY_SHARED and not SHARED.is_dir():
        pytest.skip(f"no recordings at {SHARED} that show this rule")
    MUTATIONS[name](monkeypatch)
    assert first_mismatch(monkeypatch) is not None
