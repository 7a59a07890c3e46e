"""The paged policy: how bytes become blocks, forks and copies, swapping, counts of cells."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.budget import Budget
from sim.errors import UnsupportedOperation
from sim.layers import AttentionSpec, LayerSpec
from sim.model import ModelSpec
from sim.model_files.lookup import model_of
from sim.paging.spec import layout_of
from sim.policies.paged import Paged
from sim.sequence import Sequence, Status
from sim.state import StateSpec
from sim.step import Run, Step
from sim.usage import Usage
from workloads.errors import InputError
from workloads.request import PrefixPath, Request

GIB = 1 << 30


def attention(kind: str = "full", window: int | None = None, head_dim: int = 32) -> LayerSpec:
    return LayerSpec(
        attention=AttentionSpec(
            heads=1, kv_heads=1, head_dim_k=head_dim, head_dim_v=head_dim, kind=kind, window=window
        )
    )


def budget(*layers: LayerSpec, blocks: int = 16, size: int = 4, **limits: int) -> Budget:
    """So many blocks of ``size`` tokens for layers of 128 bytes a token."""
    model = ModelSpec("small", layers or (attention(),), 64, 100)
    return Budget(model, blocks * size * 128, **limits)


def small(*layers: LayerSpec, blocks: int = 16, **options: Any) -> Paged:
    return Paged(budget(*layers, blocks=blocks), Paged.Options(**{"block_size": 4} | options))


def sequence(number: int, prompt: int, output: int = 8, path: PrefixPath | None = None) -> Sequence:
    return Sequence(number, Request(number, 0.0, prompt, output, path))


def step_of(policy: Paged, *runs: tuple[Sequence, int]) -> Any:
    """Allocate, commit, and count the tokens as computed; the placement."""
    step = Step()
    listed = []
    for seq, n in runs:
        assert policy.allocate(seq, n)
        listed.append(Run(seq, seq.computed, n))
    for seq, n in runs:
        seq.computed += n
        seq.tokens = max(seq.tokens, seq.computed)
    step.runs = listed
    placement = policy.commit(step)
    policy.check_integrity()
    return placement


# Layout.


def test_gemma_has_one_full_group_and_five_with_windows() -> None:
    model = model_of("gemma-3-12b")
    layout = layout_of(Budget(model, 8 * GIB), 16)
    kinds = Counter((group.kind, group.window, len(group.layer_ids)) for group in layout.groups)
    assert kinds == {("full", 0, 8): 1, ("swa", 1024, 8): 5}
    full = next(group for group in model.groups() if group.kind == "full")
    assert layout.block_bytes == 16 * full.cell_bytes("f16")
    assert layout.blocks == 8 * GIB // layout.block_bytes
    served = sorted(layer for group in layout.groups for layer in group.layer_ids)
    assert served == list(range(48))


def test_last_group_of_a_kind_is_padded() -> None:
    layout = layout_of(Budget(model_of("gemma-3-27b"), 8 * GIB), 16)
    sizes = [len(group.layer_ids) for group in layout.groups]
    assert sizes == [10, 9, 9, 9, 9, 8, 8]


def test_nearly_equal_kinds_have_a_group_each() -> None:
    layers = (attention(),) * 3 + (attention("swa", 8),) * 4
    layout = layout_of(Budget(ModelSpec("m", layers, 64, 100), 1 << 20), 16)
    assert [len(group.layer_ids) for group in layout.groups] == [3, 4]
    assert layout.block_bytes == 4 * 16 * 128


def test_without_hybrid_there_is_one_group_of_all_layers() -> None:
    layout = layout_of(Budget(model_of("gemma-3-12b"), 8 * GIB), 16, hybrid=False)
    assert [(group.kind, len(group.layer_ids)) for group in layout.groups] == [("full", 48)]


def test_narrow_layers_have_larger_blocks() -> None:
    layers = (attention(head_dim=64), attention("swa", 8, head_dim=32))
    layout = layout_of(Budget(ModelSpec("m", layers, 64, 100), 1 << 20), 16)
    assert [group.block_size for group in layout.groups] == [16, 32]


def test_blocks_grow_until_they_hold_a_state() -> None:
    state = LayerSpec(state=StateSpec(kind="shortconv", d_inner=1000, d_conv=2))
    layout = layout_of(Budget(ModelSpec("m", (attention(), state), 64, 100), 1 << 20), 16)
    assert [group.block_size for group in layout.groups] == [32, 1 << 30]
    assert layout.block_bytes == 32 * 128


def test_too_little_memory_is_told_in_one_line() -> None:
    with pytest.raises(InputError, match="at least 2"):
        Paged(budget(blocks=1), Paged.Options(block_size=4))
    with pytest.raises(InputError, match="block_size: expected a whole number from 1"):
        Paged.Options(block_size=0)


def test_what_never_fits() -> None:
    policy = small(blocks=6)
    assert policy.can_ever_hold(sequence(0, 13, 8))
    assert not policy.can_ever_hold(sequence(0, 13, 9))
    windowed = small(attention("swa", 4), blocks=6, reserve_full_isl=False)
    windowed.budget = Budget(windowed.budget.model, 0, max_batched_tokens=4)
    assert windowed.can_ever_hold(sequence(0, 100, 100))
    gated = small(attention("swa", 4), blocks=6)
    assert not gated.can_ever_hold(sequence(0, 100, 100))


# Reads and cells.


def test_reads_are_whole_blocks_and_live_pairs() -> None:
    policy = small(attention(), attention("swa", 6), blocks=64)
    seq = sequence(0, 10)
    prefill = step_of(policy, (seq, 10)).reads
    assert prefill[0] == (12, 55, 3)
    assert prefill[1] == (12, 21 + 4 * 6, 3)
    seq.tokens = 11
    decode = step_of(policy, (seq, 1)).reads
    # Position 10 attends to 5 .. 10: blocks 1 and 2.
    assert decode == ((12, 11, 3), (8, 6, 2))


def test_without_hybrid_windows_are_read_but_all_is_held() -> None:
    policy = small(attention(), attention("swa", 6), blocks=64, hybrid=False)
    seq = sequence(0, 19)
    step_of(policy, (seq, 19))
    seq.tokens = 20
    decode = step_of(policy, (seq, 1)).reads
    assert decode == ((20, 20, 5), (8, 6, 2))
    assert policy.usage()[0].live == 20


def test_cells_and_owners_agree() -> None:
    policy = small(attention(), attention("swa", 6), blocks=64)
    one, two = sequence(0, 10), sequence(1, 5)
    step_of(policy, (one, 10), (two, 5))
    one.tokens = 11
    step_of(policy, (one, 1))
    owners = policy.owners()
    for seq in (one, two):
        for group in (0, 1):
            positions, cells = policy.cells_of(seq, group)
            live = positions >= (0 if group == 0 else max(0, seq.computed - 6))
            assert (owners[cells[live]] == seq.id).all()
            assert (owners[cells[~live]] == -3).all()
    usage = policy.usage()[0]
    assert (owners >= 0).sum() == usage.live
    assert (owners == -1).sum() == usage.free
    assert (owners == -3).sum() == usage.reserved + usage.internal


# Forks.


def test_the_shared_last_block_is_copied_by_who_writes_first() -> None:
    policy = small()
    parent, child, third = sequence(0, 6), sequence(1, 6), sequence(2, 6)
    step_of(policy, (parent, 6))
    for twin in (child, third):
        twin.tokens, twin.computed = parent.tokens, parent.computed
        assert policy.fork(parent, twin)
    policy.check_integrity()
    assert policy.usage()[0].live == 6
    assert policy.usage()[0].shared == 6
    tables = policy.manager.holdings
    shared = tables[0].tables[0].blocks[1]
    placement = step_of(policy, (parent, 1), (child, 1), (third, 1))
    assert [copy.kind for copy in placement.copies] == ["cow", "cow"]
    for copy, owner in zip(placement.copies, (0, 1), strict=True):
        target = tables[owner].tables[0].blocks[1]
        assert copy.src.tolist() == [4 * (shared - 1), 4 * (shared - 1) + 1]
        assert copy.dst.tolist() == [4 * (target - 1), 4 * (target - 1) + 1]
        assert copy.bytes == 2 * 128
    assert tables[2].tables[0].blocks[1] == shared
    assert policy.usage()[0].live == 4 + 3 * 3
    for seq in (parent, child, third):
        seq.status = Status.FINISHED
        policy.release(seq)
    policy.check_integrity()
    assert policy.usage()[0].free == policy.usage()[0].capacity


def test_a_fork_at_a_block_boundary_copies_nothing() -> None:
    policy = small()
    parent, child = sequence(0, 8), sequence(1, 8)
    step_of(policy, (parent, 8))
    child.tokens, child.computed = 8, 8
    policy.fork(parent, child)
    assert not step_of(policy, (parent, 1), (child, 1)).copies
    assert policy.usage()[0].shared == 8


def test_a_fork_needs_room_for_the_copy() -> None:
    policy = small(blocks=3)
    parent, child = sequence(0, 6), sequence(1, 6)
    step_of(policy, (parent, 6))
    child.tokens, child.computed = 6, 6
    policy.fork(parent, child)
    assert not policy.allocate(parent, 1)
    policy.release(child)
    assert policy.allocate(parent, 1)


def test_copies_name_every_layer_group_of_the_block() -> None:
    policy = small(attention(), attention("swa", 8), blocks=64, hybrid=False)
    parent, child = sequence(0, 6), sequence(1, 6)
    step_of(policy, (parent, 6))
    child.tokens, child.computed = 6, 6
    policy.fork(parent, child)
    placement = step_of(policy, (parent, 1), (child, 1))
    assert [(copy.group, copy.bytes) for copy in placement.copies] == [(0, 256), (1, 256)]


# Swapping and sequence operations.


def test_swapping_moves_whole_blocks_and_keeps_the_window_only() -> None:
    policy = small(attention(), attention("swa", 6), blocks=64)
    seq = sequence(0, 18)
    step_of(policy, (seq, 18))
    seq.tokens = 19
    step_of(policy, (seq, 1))
    seq.status = Status.SWAPPED
    # Blocks 0 .. 4 of the full group, and 3, 4 of the window's.
    assert policy.swap_out(seq) == (5 + 2) * 4 * 128
    assert not list(policy.holders())
    assert policy.swap_in(seq) == (5 + 2) * 4 * 128
    assert policy.manager.holdings[0].tables[1].live == 3
    policy.check_integrity()


def test_swapping_in_needs_room_for_one_token_more() -> None:
    policy = small(blocks=3)
    seq = sequence(0, 8)
    step_of(policy, (seq, 8))
    policy.swap_out(seq)
    assert policy.swap_in(seq) is None
    assert not list(policy.holders())


def test_a_tail_can_be_removed_and_is_nobody_elses_then() -> None:
    policy = small()
    path = ((5, 16),)
    first, second = sequence(0, 8, 8, path), sequence(1, 8, 8, path)
    step_of(policy, (first, 8))
    assert policy.seq_rm(0, 6, -1)
    assert (first.computed, first.tokens) == (6, 6)
    policy.check_integrity()
    assert policy.lookup(second) == 4
    step_of(policy, (first, 2))
    assert policy.lookup(second) == 4
    assert first.path[:2] != path


def test_what_a_window_lost_cannot_be_gone_back_to() -> None:
    policy = small(attention("swa", 4), blocks=32)
    seq = sequence(0, 20)
    step_of(policy, (seq, 20))
    seq.tokens = 21
    step_of(policy, (seq, 1))
    assert policy.seq_pos_min(0) == 16
    assert not policy.seq_rm(0, 10, -1)
    assert not policy.seq_rm(0, 3, 5)
    assert policy.seq_rm(0, 20, -1)


def test_sequences_can_be_copied_kept_saved_and_forgotten() -> None:
    policy = small(blocks=32)
    seq = sequence(0, 6)
    step_of(policy, (seq, 6))
    policy.seq_cp(0, 7, -1, -1)
    assert policy.seq_pos_max(7) == 5
    assert policy.usage()[0].shared == 6
    with pytest.raises(UnsupportedOperation):
        policy.seq_cp(0, 8, 2, 4)
    with pytest.raises(UnsupportedOperation):
        policy.seq_add(0, 0, -1, 1)
    saved = policy.save(0)
    policy.seq_keep(7)
    assert (policy.seq_pos_min(0), policy.seq_pos_max(0)) == (-1, -1)
    assert policy.restore(saved, 0)
    policy.check_integrity()
    policy.clear()
    assert policy.usage()[0].free == policy.usage()[0].capacity
    policy.check_integrity()


def test_prompts_cached_before_a_clear_are_not_found() -> None:
    policy = small()
    one = sequence(0, 9, path=((3, 17),))
    step_of(policy, (one, 9))
    assert policy.lookup(sequence(1, 9, path=((3, 17),))) == 8
    policy.clear()
    assert policy.lookup(sequence(2, 9, path=((3, 17),))) == 0


# Counts of cells, by looking at every one of them.


def counted(policy: Paged, starts: dict[int, int]) -> Usage:
    """Cells of every held block by use, one by one; ``starts``: first token of the last step."""
    cells = 4
    live: set[tuple[int, int]] = set()
    promised: set[tuple[int, int]] = set()
    held: Counter[int] = Counter()
    for seq in policy._seqs.values():
        for group, table in zip(
            policy.manager.groups, policy.manager.holdings[seq.id].tables, strict=True
        ):
            first = group.skipped(starts[seq.id])
            for entry, block in enumerate(table.blocks):
                if not block:
                    continue
                held[block] += 1
                for offset in range(cells):
                    position = entry * group.size + offset
                    if first <= position < seq.computed:
                        live.add((block, offset))
                    elif seq.computed <= position < seq.limit - 1:
                        promised.add((block, offset))
    capacity = (policy.manager.pool.size - 1) * cells
    reserved = len(promised - live)
    free = capacity - len(held) * cells
    shared = sum(held[block] > 1 for block, _ in live)
    internal = capacity - free - len(live) - reserved
    return Usage(capacity, len(live), reserved, internal, free, 0, shared, 0)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), windowed=st.booleans())
def test_counts_are_those_of_single_cells(data: st.DataObject, windowed: bool) -> None:
    layers = (attention(), attention("swa", 6)) if windowed else (attention(),)
    policy = small(*layers, blocks=60)
    running: dict[int, Sequence] = {}
    starts: dict[int, int] = {}
    for number in range(data.draw(st.integers(1, 30))):
        action = data.draw(st.sampled_from(["admit", "step", "step", "fork", "release"]))
        if action == "admit":
            prompt = data.draw(st.integers(1, 20))
            seq = sequence(number, prompt, 30, ((1, 10), (100 + number, prompt + 30)))
            hit = policy.lookup(seq)
            if policy.can_admit(seq, hit) and policy.allocate(seq, prompt - hit, hit):
                seq.computed = prompt
                policy.commit(Step(runs=[Run(seq, hit, prompt - hit)]))
                running[seq.id], starts[seq.id] = seq, hit
        elif action == "release" and running:
            seq = running.pop(data.draw(st.sampled_from(sorted(running))))
            seq.status = Status.FINISHED
            policy.release(seq)
        elif action == "fork" and running:
            parent = running[data.draw(st.sampled_from(sorted(running)))]
            child = sequence(1000 + number, parent.prompt, 30)
            child.tokens, child.computed = parent.tokens, parent.computed
            policy.fork(parent, child)
            running[child.id], starts[child.id] = child, starts[parent.id]
        elif action == "step" and running:
            runs = []
            for seq in running.values():
                if seq.computed < seq.limit - 1:
                    seq.tokens = seq.computed + 1
                    if policy.allocate(seq, 1):
                        runs.append(Run(seq, seq.computed, 1))
            for seq, start, _ in runs:
                starts[seq.id] = start
                seq.computed += 1
            policy.commit(Step(runs=runs))
        policy.check_integrity()
        expected, usage = counted(policy, starts), policy.usage()[0]
        expected.cell_bytes = usage.cell_bytes
        assert usage == expected
        owners = policy.owners()
        assert np.count_nonzero(owners == -2) == usage.shared


@pytest.mark.parametrize("prompt", range(2, 11))
@pytest.mark.parametrize("windowed", [False, True])
def test_shares_of_a_block_are_counted_where_tails_were_removed(
    prompt: int, windowed: bool
) -> None:
    layers = (attention(), attention("swa", 5)) if windowed else ()
    for cuts in [(kept, None) for kept in range(1, prompt)] + [
        (kept, other) for kept in range(1, prompt) for other in range(1, prompt)
    ]:
        policy = small(*layers, blocks=32)
        seq, twin = sequence(0, prompt), sequence(1, prompt)
        step_of(policy, (seq, prompt))
        twin.tokens, twin.computed = seq.tokens, seq.computed
        policy.fork(seq, twin)
        for owner, kept in enumerate(cuts):
            if kept is not None and not policy.seq_rm(owner, kept, -1):
                assert windowed
        policy.check_integrity()
        if not windowed:
            cells = Counter(c for each in (seq, twin) for c in policy.cells_of(each)[1].tolist())
            (usage,) = policy.usage()
            assert usage.live == len(cells)
            assert usage.shared == sum(count > 1 for count in cells.values())
            assert usage.reserved >= 0
            assert usage.internal >= 0
