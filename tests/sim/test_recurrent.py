"""Recurrent and hybrid models in llama.cpp's caches: states beside cells, or alone."""

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sim.budget import Budget
from sim.checking import CheckedRun
from sim.hardware import hardware_of
from sim.layers import AttentionSpec, LayerSpec
from sim.metrics import Objectives, request_columns, summary_of, timeline_columns
from sim.model import ModelSpec
from sim.plugins import policy_of, scheduler_of
from sim.sequence import Sequence
from sim.simulation import Simulation
from sim.state import StateSpec
from sim.step import Reads, Run, Step, Work
from sim.timing.roofline import Roofline
from workloads.errors import InputError
from workloads.request import Request, Traffic, Workload

STATE = LayerSpec(state=StateSpec(kind="mamba", d_inner=64, d_state=8, d_conv=4, dt_rank=4))


def attention(kind="full", window=None):
    heads = {"heads": 4, "kv_heads": 2, "head_dim_k": 32, "head_dim_v": 32}
    return LayerSpec(attention=AttentionSpec(**heads, kind=kind, window=window))


MODELS = {
    "states": (STATE, STATE),
    "hybrid": (STATE, attention()),
    "hybrid, windows": (STATE, attention(), attention("swa", 40)),
    "windows": (attention(), attention("swa", 40)),
    "windows alone": (attention("swa", 40),),
    "hybrid, windows alone": (STATE, attention("swa", 40)),
}
VARIANTS = [
    ("recurrent", {}, "states"),
    ("recurrent", {"sequences": 3}, "states"),
    ("recurrent", {"snapshots": 4}, "states"),
    ("recurrent", {"ubatch": 24, "snapshots": 2}, "states"),
    ("hybrid", {}, "hybrid"),
    ("hybrid", {"snapshots": 4, "ubatch": 24}, "hybrid"),
    ("hybrid", {"streams": "per-sequence", "sequences": 3}, "hybrid"),
    ("hybrid", {}, "hybrid, windows"),
    ("hybrid", {"swa_full": True, "ubatch": 24}, "hybrid, windows"),
    ("hybrid", {"streams": "per-sequence", "sequences": 3}, "hybrid, windows"),
    ("ring", {}, "hybrid"),
    ("iswa", {}, "hybrid, windows"),
]
SPLIT = [
    ("ring", {"streams": "per-sequence"}, "windows"),
    ("iswa", {"streams": "per-sequence"}, "windows"),
]


def budget(kind, tokens=768, states=24, **limits):
    model = ModelSpec(kind, MODELS[kind], hidden=128, vocab=100)
    size = tokens * model.token_bytes() + states * model.state_bytes
    limits = {"max_seqs": 6, "max_batched_tokens": 64, "max_model_len": 300} | limits
    return Budget(model, size, **limits)


def sequence(number, prompt, output=20):
    return Sequence(number, Request(number, 0.0, prompt, output))


def placed(policy, *runs):
    """Allocate and commit runs of (sequence, n); the placement."""
    step = Step()
    for seq, n in runs:
        assert policy.allocate(seq, n)
        step.runs.append(Run(seq, seq.computed, n))
    placement = policy.commit(step)
    for seq, n in runs:
        seq.computed += n
    return placement


requests = st.lists(
    st.tuples(st.integers(0, 60), st.integers(1, 150), st.integers(1, 60)), min_size=1, max_size=9
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from(VARIANTS), requests, st.sampled_from(["recompute", "swap"]), st.integers(1, 40)
)
def test_promises_are_kept(variant, traffic, preemption, longest):
    name, options, kind = variant
    run = CheckedRun(
        policy_of(name, budget(kind), options),
        {"preemption": preemption},
        longest_run=lambda: longest,
    )
    run.serve([Request(i, float(a), p, o) for i, (a, p, o) in enumerate(sorted(traffic))])
    assert len(run.finished) == len(traffic)


class Listed(Workload):
    name = "listed"

    def __init__(self, requests):
        self.requests = requests

    def traffic(self):
        return ListedTraffic(self.requests)


class ListedTraffic(Traffic):
    def __init__(self, requests):
        self.requests = requests

    def arrivals(self):
        return (Request(i, *each) for i, each in enumerate(self.requests))


def results(name, options, kind, traffic, exact_steps):
    given = budget(kind, tokens=2048)
    policy = policy_of(name, given, options)
    clock = Roofline(given, hardware_of("cpu-16"))
    simulation = Simulation(
        Listed(traffic), policy, scheduler_of("vllm", policy), clock, exact_steps=exact_steps
    )
    recorder = simulation.run().recorder
    columns = request_columns(recorder)
    summary = summary_of(recorder, columns, {"default": Objectives()})
    return repr((columns, summary, timeline_columns(recorder)))


@pytest.mark.parametrize(("name", "options", "kind"), VARIANTS + SPLIT)
def test_runs_of_steps_give_the_same_bits_as_single_steps(name, options, kind):
    """With a clock that sees reads and passes: several sequences can need several ubatches."""
    rng = random.Random(3)
    traffic = sorted(
        (rng.uniform(0, 0.4), rng.randint(1, 150), rng.randint(1, 80)) for _ in range(14)
    )
    assert results(name, options, kind, traffic, True) == results(
        name, options, kind, traffic, False
    )


def test_states_are_as_many_as_fit_and_as_large_as_their_snapshots():
    given = budget("states", states=4)
    (usage,) = policy_of("recurrent", given).usage()
    assert (usage.capacity, usage.cell_bytes) == (4, given.model.state_bytes)
    (usage,) = policy_of("recurrent", given, {"snapshots": 1}).usage()
    assert (usage.capacity, usage.cell_bytes) == (2, 2 * given.model.state_bytes)
    with pytest.raises(InputError, match=r"at least those of 3 states of \d+ bytes"):
        policy_of("recurrent", given, {"snapshots": 1, "sequences": 3})


def test_a_hybrid_keeps_states_first_and_makes_cells_of_the_rest():
    given = budget("hybrid", tokens=1024, states=6)
    cells, states = policy_of("hybrid", given).usage()
    assert (cells.capacity, states.capacity) == (1024, 6)
    cells, states = policy_of("hybrid", given, {"sequences": 2}).usage()
    assert states.capacity == 2
    assert cells.capacity * cells.cell_bytes <= given.bytes - 2 * states.cell_bytes
    with pytest.raises(InputError, match="256 cells and 6 recurrent states"):
        policy_of("hybrid", budget("hybrid", tokens=256, states=5))


def test_a_step_loads_and_stores_the_states_of_its_sequences():
    policy = policy_of("hybrid", budget("hybrid"))
    one, two = sequence(0, 10), sequence(1, 3)
    placement = placed(policy, (one, 10), (two, 3))
    # Equally many tokens of both, then the rest of the longer one.
    assert placement.passes == 2
    assert placement.reads[1] == (2 * (2 + 1), 0, 0)
    plan = policy.plan_run([one, two], 5)
    assert (plan.passes, plan.reads[1].cells) == (1, 2 * 2)
    single = placed(policy, (one, 1), (two, 1))
    assert (single.passes, single.reads[1].cells) == (1, 2 * 2)


def test_sequences_whose_ids_do_not_follow_one_another_take_a_pass_each():
    policy = policy_of("recurrent", budget("states"))
    seqs = [sequence(number, 5) for number in range(4)]
    assert placed(policy, *((seq, 5) for seq in seqs)).passes == 1
    policy.release(seqs.pop(1))
    # Scheduled in another order than that of their ids, which is the one that counts.
    order = [seqs[2], seqs[0], seqs[1]]
    placement = placed(policy, *((seq, 1) for seq in order))
    assert placement.passes == 2
    plan = policy.plan_run(order, 9)
    assert (plan.steps, plan.passes) == (9, 2)
    assert plan.reads[0].cells == placement.reads[0].cells == 2 * 3


def test_a_state_between_others_is_carried_along():
    policy = policy_of("recurrent", budget("states"))
    first, second, third = (sequence(number, 5) for number in range(3))
    for seq in (first, third, second):
        placed(policy, (seq, 5))
    # Cells: first, third (id 1), second (id 2). Ids 0 and 2 lie apart, but each is its own ubatch.
    assert placed(policy, (first, 1), (second, 1)).reads[0].cells == 2 * 2
    # In one ubatch they would have to be neighbours: in a hybrid they are, after a swap.
    hybrid = policy_of("hybrid", budget("hybrid"))
    seqs = [sequence(number, 5) for number in range(3)]
    placed(hybrid, *((seq, 5) for seq in seqs))
    assert placed(hybrid, (seqs[0], 1), (seqs[2], 1)).reads[1].cells == 2 * 3
    assert placed(hybrid, (seqs[0], 1), (seqs[2], 1)).reads[1].cells == 2 * 2
    hybrid.check_integrity()


def test_snapshots_are_written_for_the_last_tokens_of_a_ubatch():
    policy = policy_of("recurrent", budget("states"), {"snapshots": 3})
    seq = sequence(0, 10)
    assert placed(policy, (seq, 10)).reads[0].cells == 2 + 3
    assert placed(policy, (seq, 1)).reads[0].cells == 2
    assert policy.seq_rm(0, 9, -1)
    assert not policy.seq_rm(0, 5, -1)


def test_a_fork_shares_the_state_until_both_go_on():
    policy = policy_of("recurrent", budget("states"))
    parent, child = sequence(0, 5), sequence(1, 5)
    placed(policy, (parent, 5))
    assert policy.fork(parent, child)
    child.computed = 5
    (usage,) = policy.usage()
    assert (usage.live, usage.shared) == (1, 1)
    assert policy.owners(0)[0] == -2
    assert policy.plan_run([parent, child], 5) is None
    placed(policy, (parent, 1), (child, 1))
    assert policy.usage()[0].live == 2
    assert sorted(policy.owners(0)[:2]) == [0, 1]
    positions, cells = policy.cells_of(child)
    assert positions.tolist() == [5]
    assert policy.owners(0)[cells].tolist() == [1]


def test_all_policies_price_states_alike():
    """Two moves of the state of every sequence a decode step, one for a new sequence."""
    given = budget("hybrid", tokens=2048, max_model_len=256)
    for name in ("hybrid", "paged", "contiguous"):
        policy = policy_of(name, given)
        seqs = [sequence(number, 5) for number in range(3)]
        placed(policy, *((seq, 5) for seq in seqs))
        assert placed(policy, *((seq, 1) for seq in seqs)).reads[1] == (2 * 3, 0, 0), name
    sheet, group = hardware_of("h100"), given.model.groups()[1]
    clock = Roofline(given, sheet)
    with_states, without = (
        clock.seconds(Work(3, 3, (Reads(0, 0, 0), Reads(states, 0, 0)))) for states in (6, 0)
    )
    bandwidth = sheet.memory_bandwidth * sheet.memory_efficiency
    assert with_states - without == pytest.approx(6 * group.state_bytes / bandwidth)


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("recurrent", "hybrid", "has attention"),
        ("hybrid", "states", "has only one kind"),
        ("hybrid", "windows", "has only one kind"),
        ("ring", "states", "recurrent serves it"),
        ("iswa", "states", "recurrent serves it"),
        ("contiguous", "states", "recurrent and paged serve it"),
    ],
)
def test_models_that_a_policy_cannot_serve_are_refused_in_words(name, kind, words):
    with pytest.raises(InputError, match=words):
        policy_of(name, budget(kind))


@pytest.mark.parametrize(
    ("name", "kind"), [("iswa", "windows alone"), ("hybrid", "hybrid, windows alone")]
)
def test_windows_alone_get_the_context_that_fits_in_full(name, kind):
    # Windows of 6 sequences and a ubatch are 6 * 40 + 64 = 304 cells, padded to 512; more memory
    # makes no more of them, whatever the context.
    usage = [policy_of(name, budget(kind, tokens=n, states=6)).usage() for n in (4096, 65536)]
    assert [parts[0].capacity for parts in usage] == [4096, 65536]
    assert [parts[1].capacity for parts in usage] == [512, 512]
    assert policy_of(name, budget(kind, tokens=256, states=6)).usage()[0].capacity == 256
    assert policy_of(name, budget(kind, tokens=1024, states=6), {"swa_full": True}).usage()


@pytest.mark.parametrize("name", ["orca", "sglang"])
def test_schedulers_that_count_tokens_need_attention(name):
    with pytest.raises(InputError, match=f"{name}: states has no attention"):
        scheduler_of(name, policy_of("recurrent", budget("states")))


def test_options_that_cannot_be_are_refused():
    with pytest.raises(InputError, match=r"more than snapshots \+ 1 = 5 tokens"):
        policy_of("hybrid", budget("hybrid"), {"snapshots": 4, "ubatch": 5})
    with pytest.raises(InputError, match="no tokens can be taken out"):
        policy_of("ring", budget("hybrid"), {"window": 40})


@pytest.mark.parametrize(
    ("name", "kind"), [("recurrent", "states"), ("hybrid", "hybrid"), ("ring", "hybrid")]
)
def test_a_cache_type_that_the_engine_does_not_know_is_refused_in_one_line(name, kind):
    with pytest.raises(InputError, match=f"{name}: cache type 'fp8'; known: f32, f16"):
        policy_of(name, budget(kind, kv_type_k="fp8", kv_type_v="fp8"))


def test_rows_of_cells_cannot_be_promised_beside_states():
    with pytest.raises(
        InputError, match=r"ring\.slots: expected scattered, as .* recurrent states"
    ):
        policy_of("ring", budget("hybrid"), {"slots": "contiguous"})
    options = {"slots": "contiguous", "streams": "per-sequence"}
    each = policy_of("ring", budget("hybrid", tokens=3000), options)
    assert each.states is not None
