"""What the serving face of llama.cpp's caches adds: windows, ids, ubatches, sizes, swapping."""

import random

import numpy as np
import pytest

from sim.checking import CheckedRun
from sim.plugins import policy_of, scheduler_of
from sim.sequence import Sequence, Status
from sim.step import Run, Step
from workloads.errors import InputError
from workloads.request import Request


def sequence(number: int, prompt: int, output: int = 10) -> Sequence:
    return Sequence(number, Request(number, 0.0, prompt, output))


def placed(policy, *runs):
    """Allocate and commit runs of (sequence, n); the placement."""
    assert all(policy.allocate(seq, n) for seq, n in runs)
    placement = policy.commit(Step(runs=[Run(seq, seq.computed, n) for seq, n in runs]))
    for seq, n in runs:
        seq.computed += n
    return placement


def test_a_window_keeps_sinks_and_drops_half_of_the_rest(budget_of):
    policy = policy_of("ring", budget_of(), {"window": 32, "sinks": 4})
    seq = sequence(0, 28, 60)
    assert policy.chunk_of(seq, 0, 28) == 14
    placed(policy, (seq, 14))
    placed(policy, (seq, 14))
    sinks = policy.cells_of(seq)[1][:4].tolist()
    for _ in range(4):
        assert not placed(policy, (seq, 1)).shifts
    kept = policy.cells_of(seq)[1][4 + 14 :].tolist()
    shift = placed(policy, (seq, 1)).shifts[0]
    # 32 tokens: 4 sinks, of the other 28 half are dropped and half move down by as many.
    assert sorted(shift.cells.tolist()) == sorted(kept)
    assert set(shift.deltas.tolist()) == {-14}
    positions, cells = policy.cells_of(seq)
    assert positions.tolist() == list(range(4 + 14 + 1))
    assert cells[:4].tolist() == sinks
    assert cells[4:-1].tolist() == kept
    policy.check_integrity()


def test_a_window_never_holds_more_and_admits_what_would_not_fit(budget_of):
    policy = policy_of("ring", budget_of(tokens=256), {"window": 40, "discard": 0.0})
    seq = sequence(0, 20, 300)
    assert policy.can_ever_hold(seq)
    placed(policy, (seq, 18))
    for _ in range(200):
        placed(policy, (seq, 1))
        assert policy.usage()[0].live <= 40
    assert policy.seq_pos_max(0) == 39


def test_a_window_without_room_for_tokens_is_refused(budget_of):
    with pytest.raises(InputError, match=r"at least sinks \+ 2 = 6"):
        policy_of("ring", budget_of(), {"window": 5})


def test_ids_are_llama_cpp_s_lowest_free_ones_and_few(budget_of):
    policy = policy_of("ring", budget_of(max_seqs=2))
    one, two, three = (sequence(number, 5) for number in (10, 11, 12))
    placed(policy, (one, 5), (two, 5))
    assert not policy.can_admit(three, 0)
    assert not policy.allocate(three, 5)
    policy.release(one)
    placed(policy, (three, 5))
    assert sorted(policy.holders()) == [11, 12]
    with pytest.raises(InputError, match="at most 256"):
        policy_of("ring", budget_of(max_seqs=300))


def test_without_a_row_of_free_cells_ubatches_get_smaller(budget_of):
    policy = policy_of("ring", budget_of(tokens=256, max_seqs=64), {"slots": "contiguous"})
    short = [sequence(number, 4) for number in range(64)]
    placed(policy, *((seq, 4) for seq in short))
    for seq in short[::2]:
        policy.release(seq)
    late = sequence(100, 16)
    placement = placed(policy, (late, 16))
    # Rows of 4 cells are free: ubatches of 128, 64, ... 8 find none, of 4 they do.
    assert placement.passes == 4
    assert placement.failures == 5
    policy.check_integrity()


def test_shared_cells_count_once(budget_of):
    policy = policy_of("ring", budget_of())
    parent, child = sequence(0, 30), sequence(1, 30)
    placed(policy, (parent, 30))
    assert policy.fork(parent, child)
    child.computed = parent.computed
    usage = policy.usage()[0]
    assert (usage.live, usage.shared) == (30, 30)
    placed(policy, (parent, 1), (child, 1))
    assert policy.usage()[0].live == 32
    assert policy.cells_of(parent)[1][:30].tolist() == policy.cells_of(child)[1][:30].tolist()


def test_iswa_divides_its_bytes_as_the_engine_sizes_its_caches(budget_of):
    budget = budget_of("windowed", tokens=4096, max_seqs=6, max_batched_tokens=128)
    full, window = policy_of("iswa", budget).usage()
    # 6 windows of 40 and a ubatch of 128 are 368 cells, rounded up to 512.
    assert window.capacity == 512
    used = full.capacity * full.cell_bytes + window.capacity * window.cell_bytes
    assert budget.bytes - 256 * full.cell_bytes < used <= budget.bytes


def test_too_little_memory_for_a_context_is_said_in_bytes(budget_of):
    with pytest.raises(InputError, match="expected at least those of 256 cells"):
        policy_of("ring", budget_of(tokens=255))


def test_unified_attention_scans_everybody_s_cells(budget_of):
    policy = policy_of("ring", budget_of(tokens=2048))
    long, short = sequence(0, 700), sequence(1, 10)
    placed(policy, (long, 700))
    reads = placed(policy, (short, 10)).reads[0]
    assert reads.cells == 768
    assert reads.pairs == 10 * 768


def test_swapping_saves_and_restores_the_same_positions(budget_of):
    policy = policy_of("iswa", budget_of("windowed"))
    seq = sequence(0, 100)
    placed(policy, (seq, 100))
    before = [policy.cells_of(seq, group)[0] for group in range(2)]
    size = policy.swap_out(seq)
    assert not list(policy.holders())
    assert policy.swap_in(seq) == size
    for group in range(2):
        after = policy.cells_of(seq, group)[0]
        assert np.isin(after, before[group]).all()
        assert after[-1] == 99


def test_a_batch_is_promised_cells_as_a_whole_and_who_leaves_it_gives_its_cell_back(budget_of):
    policy = policy_of("ring", budget_of(tokens=256, max_seqs=8))
    seqs = [sequence(number, 60) for number in range(4)]
    for seq in seqs:
        placed(policy, (seq, 60))
    assert policy.allocate_each(seqs)
    last = sequence(9, 20)
    assert not policy.allocate(last, 13)
    assert policy.allocate(last, 12)
    gone = seqs.pop()
    policy.release(gone)
    assert policy.allocate(gone, 61)
    assert not policy.allocate(gone, 1)
    assert not policy.allocate_each([sequence(10, 1)])


@pytest.mark.parametrize("swapped", [False, True])
def test_who_waits_for_cells_is_no_reason_for_single_steps(budget_of, swapped):
    budget = budget_of(tokens=256, max_seqs=4, max_batched_tokens=512)
    policy = policy_of("ring", budget)
    scheduler = scheduler_of("vllm", policy, {"preemption": "swap"})
    seqs = [sequence(0, 100, 20), sequence(1, 200)]
    if swapped:
        placed(policy, (seqs[1], 200))
        policy.swap_out(seqs[1])
        seqs[1].status = Status.SWAPPED
    for seq in seqs:
        scheduler.add(seq)
    step = scheduler.schedule()
    assert len(step.refused) == len(step.runs) == 1
    policy.commit(step)
    scheduler.update(step)
    assert scheduler.steady_steps() == 19
    assert scheduler.refusals_per_step == 1


def test_a_scheduler_takes_its_limits_from_the_budget(budget_of):
    policy = policy_of("contiguous", budget_of(max_seqs=3, max_batched_tokens=77))
    options = scheduler_of("vllm", policy).options
    assert (options.max_seqs, options.max_batched_tokens) == (3, 77)


CLOSING = [
    {"defrag": 0.1},
    {"defrag": 0.1, "defrag_nodes": 24, "slots": "contiguous"},
    {"compaction": 0.1},
]


@pytest.mark.parametrize("options", CLOSING)
@pytest.mark.parametrize("preemption", ["recompute", "swap"])
def test_cells_that_move_are_found_and_their_copies_ordered(budget_of, options, preemption):
    rng = random.Random(4)
    requests = [
        Request(number, float(4 * number), rng.randint(1, 900), rng.randint(1, 40))
        for number in range(25)
    ]
    budget = budget_of(tokens=3072, max_seqs=8, max_batched_tokens=512, max_model_len=940)
    policy = policy_of("ring", budget, options)
    kinds = set()

    class Noting(type(policy)):
        def placed(self, step, reads):
            placement = super().placed(step, reads)
            kinds.update(copy.kind for copy in placement.copies)
            return placement

    policy.__class__ = Noting
    run = CheckedRun(policy, {"preemption": preemption}, longest_run=lambda: rng.randint(1, 30))
    run.serve(requests)
    assert len(run.finished) == len(requests)
    assert kinds == {"compaction" if "compaction" in options else "defrag"}


def test_closing_holes_lets_attention_scan_fewer_cells(budget_of):
    scanned = {}
    for name, options in (("holes", {}), ("moved", {"defrag": 0.1}), ("together", CLOSING[2])):
        policy = policy_of("ring", budget_of(tokens=4096, max_batched_tokens=4096), options)
        first, second = sequence(0, 2500), sequence(1, 500)
        placed(policy, (first, 2500), (second, 500))
        policy.release(first)
        placement = placed(policy, (second, 1))
        scanned[name] = placement.reads[0].cells
        assert sum(copy.bytes for copy in placement.copies) == (
            500 * policy.cell_bytes[0] if options else 0
        )
    assert scanned == {"holes": 3072, "moved": 512, "together": 512}


def test_a_slot_of_consecutive_cells_is_made_before_the_ubatch_is_cut(budget_of):
    policy = policy_of("ring", budget_of(tokens=256, max_seqs=64), CLOSING[1])
    short = [sequence(number, 4) for number in range(64)]
    placed(policy, *((seq, 4) for seq in short))
    for seq in short[::2]:
        policy.release(seq)
    placement = placed(policy, (sequence(100, 16), 16))
    # One graph moves one row of 4 cells from the end, which makes 8 free there; two make 16.
    assert [copy.src.size for copy in placement.copies] == [4, 4]
    assert (placement.passes, placement.failures) == (1, 2)
    policy.check_integrity()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"defrag": 0.1, "compaction": 0.1}, "give one of them"),
        ({"defrag": 0.1, "streams": "per-sequence"}, "expected streams=unified"),
        ({"defrag": 0.1, "defrag_nodes": 15}, "expected at least 16, for one row of cells"),
    ],
)
def test_ways_of_closing_holes_that_cannot_be_are_refused(budget_of, options, words):
    with pytest.raises(InputError, match=words):
        policy_of("ring", budget_of(), options)
