"""`summary`: fixed cells a sequence, what is kept and what is merged, and that it says so."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.budget import Budget
from sim.checking import CheckedRun
from sim.model_files.lookup import model_of
from sim.plugins import policy_of
from sim.sequence import Sequence
from sim.step import Run, Step
from workloads.errors import InputError
from workloads.request import Request

OPTIONS = {"sinks": 2, "window": 8, "centroids": 3}


def stepped(policy, seq, n):
    """``n`` more tokens of ``seq``; the placement."""
    start = seq.computed
    assert policy.allocate(seq, n)
    seq.computed = start + n
    placement = policy.commit(Step([Run(seq, start, n)]))
    policy.check_integrity()
    return placement


@pytest.fixture
def policy(budget_of):
    return policy_of("summary", budget_of(tokens=13 * 4 + 5), OPTIONS)


def test_the_older_half_of_a_full_window_is_merged(policy):
    seq = Sequence(0, Request(0, 0.0, 4, 60))
    for n in (4, 3, 3):
        assert not stepped(policy, seq, n).copies
    assert policy.usage()[0].live == 10
    copies = stepped(policy, seq, 1).copies
    assert {copy.kind for copy in copies} == {"summary"}
    # Two sinks, three centroids, and of the window 6 .. 10.
    assert policy.usage()[0].live == 2 + 3 + 5
    positions, cells = policy.cells_of(seq)
    assert positions.tolist() == [0, 1, 6, 7, 8, 9, 10]
    assert len(set(cells.tolist())) == 7
    merged = copies[0].src.tolist()
    assert not set(merged) & set(cells.tolist()) - {cells[-1]}
    assert (policy.owners() == 0).sum() == 10


def test_a_decode_step_reads_what_is_held_however_long_the_sequence(policy):
    seq = Sequence(0, Request(0, 0.0, 4, 500))
    stepped(policy, seq, 4)
    reads = [int(stepped(policy, seq, 1).reads[0].cells) for _ in range(300)]
    assert max(reads) == 13 and reads[0] == 5
    assert min(reads[20:]) == 2 + 3 + 5


def test_sequences_of_any_length_fit_and_slots_are_all_there_is(policy):
    seqs = [Sequence(i, Request(i, 0.0, 4, 10**6)) for i in range(5)]
    assert all(map(policy.can_ever_hold, seqs))
    assert [policy.allocate(seq, 4) for seq in seqs] == [True] * 4 + [False]
    usage = policy.usage()[0]
    assert usage.free == usage.external == 5
    assert usage.live + usage.reserved == usage.capacity - 5
    policy.release(seqs[2])
    assert policy.allocate(seqs[4], 4)


def test_a_swapped_sequence_comes_back_with_its_centroids(policy):
    seq, other = (Sequence(i, Request(i, 0.0, 4, 60)) for i in range(2))
    for n in (4, 4, 4):
        stepped(policy, seq, n)
    before = policy.cells_of(seq)[0].tolist()
    moved = policy.swap_out(seq)
    stepped(policy, other, 4)
    assert policy.swap_in(seq) == moved
    assert policy.cells_of(seq)[0].tolist() == before
    policy.check_integrity()


@given(
    st.lists(st.tuples(st.integers(1, 60), st.integers(1, 60)), min_size=1, max_size=6),
    st.sampled_from(["recompute", "swap"]),
)
def test_promises_hold_in_single_steps_and_runs(budget_of, lengths, preemption):
    requests = [Request(i, float(i), p, o) for i, (p, o) in enumerate(lengths)]
    ends = []
    for longest in (1, 7):
        policy = policy_of("summary", budget_of(tokens=30), OPTIONS)
        run = CheckedRun(policy, {"preemption": preemption}, longest_run=lambda n=longest: n)
        run.serve(requests)
        ends.append([seq.id for seq in run.finished])
    assert ends[0] == ends[1] and len(ends[0]) == len(requests)


@pytest.mark.parametrize("kind", ["full", "windowed", "chunked"])
def test_runs_read_what_single_steps_read(budget_of, kind):
    budget = budget_of(kind, tokens=1200)
    options = {"sinks": 4, "window": 200, "centroids": 50}
    one, many = (policy_of("summary", budget, options) for _ in range(2))
    seqs = [[Sequence(i, Request(i, 0.0, 150 * (i + 1), 900)) for i in range(3)] for _ in range(2)]
    for policy, group in zip((one, many), seqs, strict=True):
        for seq in group:
            while seq.computed < seq.prompt:
                stepped(policy, seq, policy.chunk_of(seq, seq.computed, seq.prompt - seq.computed))
    plan = many.plan_run(seqs[1], 60)
    for step in range(plan.steps):
        for seq in seqs[0]:
            assert one.allocate(seq, 1)
            seq.computed += 1
        runs = [Run(seq, seq.computed - 1, 1) for seq in seqs[0]]
        for mine, planned in zip(one.commit(Step(runs)).reads, plan.reads, strict=True):
            assert mine.cells == mine.pairs == np.broadcast_to(planned.cells, plan.steps)[step]


def test_loss_is_said_by_the_policies_that_lose(budget_of):
    assert policy_of("summary", budget_of(), OPTIONS).lossy
    assert policy_of("ring", budget_of(), {"window": 64}).lossy
    assert not policy_of("ring", budget_of()).lossy
    assert not policy_of("paged", budget_of()).lossy


def test_what_cannot_be_is_refused(budget_of):
    with pytest.raises(InputError, match="at most half of the window"):
        policy_of("summary", budget_of(), {"window": 8, "centroids": 5})
    with pytest.raises(InputError, match="hold no sequence of 644 cells"):
        policy_of("summary", budget_of(tokens=600))
    mamba = model_of("mamba-2.8b")
    with pytest.raises(InputError, match="recurrent layers"):
        policy_of("summary", Budget(mamba, bytes=1 << 30))
