"""Grids with gaps, the profile reader, and `table` against numbers worked out by hand."""

import warnings
from math import sqrt
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from measured_times import DENSE, attention_us, crooked_us, write_profile

from sim.budget import Budget
from sim.hardware import hardware_of
from sim.step import Work
from sim.timing.grid import Grid
from sim.timing.profile import read_profile
from sim.timing.table import ProfileRangeWarning, Table
from sim.timing.vllm_costs import VllmCosts, graph_sizes
from workloads.errors import InputError

FREE = VllmCosts(graph_gap=0.0, stream_gap=0.0)
LINKED = hardware_of("rtx-pro-6000")


@pytest.fixture
def profile(tmp_path):
    return write_profile(tmp_path / "profile")


def table_of(profile, budget, costs=FREE):
    return Table(budget, LINKED, read_profile(profile, len(budget.model.layers)), costs)


def work_of_lengths(lengths, prefills=(), tokens=None):
    """A step of decodes of these lengths (their new token included) beside prompt chunks."""
    n = len(lengths)
    return Work(
        tokens=tokens or n + sum(size for size, _ in prefills),
        sequences=n,
        reads=(),
        prefills=tuple(prefills),
        decodes=n,
        decode_context=sum(lengths),
        decode_squares=sum(length * length for length in lengths),
        decode_longest=max(lengths, default=0),
    )


def dense_us(tokens, layers=2):
    """The fixture's linear layers: the norm is there twice, the embedding once."""
    each = dict(zip(DENSE, range(1, 8), strict=True))
    counts = {name: layers * (2 if name == "layernorm" else 1) for name in DENSE}
    counts["embedding"] = 1
    return sum(counts[name] * (each[name] + 0.1 * tokens) for name in DENSE)


# Grids.


def test_a_grid_reproduces_its_points_and_is_linear_between_them():
    points = np.array([[x, y] for x in (0, 2, 10) for y in (1, 5)], dtype=float)
    grid = Grid(("x", "y"), points, points[:, 0] * 3 + points[:, 0] * points[:, 1])
    for (x, y), value in zip(points, points[:, 0] * (3 + points[:, 1]), strict=True):
        assert grid.at(x, y) == pytest.approx(value)
    assert grid.at(6.0, np.array([2.0, 3.0])) == pytest.approx([6 * 5, 6 * 6])
    assert not grid.is_outside


def test_gaps_between_measurements_are_filled_linearly():
    # Two sweeps over each other: y = 1, 3, 9 at x = 0 and 8, but y = 1, 9 at x = 4.
    points = np.array([[x, y] for x in (0, 4, 8) for y in (1, 3, 9) if not (x == 4 and y == 3)])
    values = np.array([x + 2 * y for x, y in points], dtype=float)
    grid = Grid(("x", "y"), points.astype(float), values)
    assert grid.at(4.0, 3.0) == pytest.approx(10.0)
    assert not grid.is_outside


def test_what_lies_beyond_is_continued_or_held_and_said():
    points = np.array([[1.0], [2.0], [4.0]])
    line = Grid(("tokens",), points, np.array([1.0, 2.0, 8.0]))
    held = Grid(("tokens",), points, np.array([1.0, 2.0, 8.0]), beyond="hold")
    assert line.at(6.0) == pytest.approx(14.0) and held.at(6.0) == pytest.approx(8.0)
    assert line.at(0.0) == pytest.approx(1.0)
    assert line.outside == ["tokens from 0 to 6 asked, 1 to 4 profiled"]


def test_combinations_that_were_never_measured_are_said_too():
    points = np.array([[0.0, 0.0], [0.0, 1.0], [0.0, 2.0], [1.0, 0.0], [1.0, 1.0]])
    grid = Grid(("x", "y"), points, points.sum(axis=1))
    grid.at(0.5, 1.0)
    assert not grid.is_outside
    assert grid.at(1.0, 2.0) == pytest.approx(3.0)
    assert grid.outside == ["combinations of x, y asked that are not profiled"]


def test_a_point_can_be_measured_once_only():
    with pytest.raises(InputError, match="one measurement for every tokens"):
        Grid(("tokens",), np.array([[1.0], [1.0]]), np.array([1.0, 2.0]))
    with pytest.raises(InputError, match="got none"):
        Grid(("tokens",), np.zeros((0, 1)), np.zeros(0))


@given(
    st.lists(st.floats(0, 50), min_size=1, max_size=6),
    st.lists(st.floats(0, 50), min_size=6, max_size=6),
)
def test_arrays_give_the_bits_of_single_points(first, second):
    points = np.array([[a, b, c] for a in (0, 7, 9) for b in (1, 3) for c in (0, 10, 33)], float)
    values = np.sqrt(points @ np.array([3.0, 5.0, 7.0]))
    grid = Grid(("a", "b", "c"), points, values)
    b, c = np.array(first), np.array(second[: len(first)])
    at_once = grid.at(4.0, b, c)
    for i in range(len(b)):
        assert grid.at(4.0, b[i : i + 1], c[i : i + 1])[0] == at_once[i]


# The reader.


@pytest.mark.parametrize(
    ("file", "old", "new", "line"),
    [
        ("dense.csv", "tokens", "rows", "dense.csv: expected the column 'tokens'"),
        ("dense.csv", "down_proj", "up_proj", "expected the layer 'down_proj' of a dense model"),
        ("dense.csv", "embedding,101", "embedding,1", "dense.csv: expected one measurement"),
        ("per_sequence.csv", "sampler,65,75", "sampler,65,x", "per_sequence.csv:5: time_us"),
        ("attention.csv", "0,0,1,16", "0,0,1,-16", "attention.csv:2: kv_decode: expected"),
        ("skew.csv", "9,0.25", "9,nan", "skew.csv:2: alpha"),
    ],
)
def test_a_profile_with_a_mistake_is_refused(profile, file, old, new, line):
    path = profile / file
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(InputError, match=line.replace(".", r"\.")):
        read_profile(profile, 2)


def test_missing_files_are_named(profile, tmp_path):
    (profile / "attention.csv").unlink()
    with pytest.raises(InputError, match=r"attention\.csv: cannot be read"):
        read_profile(profile, 2)
    with pytest.raises(InputError, match="not a directory"):
        read_profile(tmp_path / "nowhere", 2)


def test_kernels_are_counted_as_profiled(profile):
    # 7 lines of dense layers, one of them once: 6 names, the norm twice, attention as two.
    assert read_profile(profile, 2).kernels == 2 * (7 + 2) + 1 + 2


# The model.


def test_a_decode_step_by_hand(profile, budget_of):
    table = table_of(profile, budget_of())
    # Three decodes at 100 cached tokens each, interpolated between 1 and 8 sequences.
    expected = dense_us(3) + 2 * (10 + 3) + 2 * attention_us(0, 0, 3, 100)
    assert table.seconds(work_of_lengths([101] * 3)) == pytest.approx(expected * 1e-6)


def test_a_mixed_step_by_hand(profile, budget_of):
    table = table_of(profile, budget_of())
    work = work_of_lengths([101] * 3, [(40, 256)])
    expected = dense_us(43) + 2 * (10 + 4) + 2 * attention_us(40, 256, 3, 100)
    assert table.seconds(work) == pytest.approx(expected * 1e-6)


def test_a_chunk_alone_takes_its_time_whatever_nobody_decodes(profile, budget_of):
    table = table_of(profile, budget_of())
    expected = dense_us(64) + 2 * (10 + 1) + 2 * attention_us(64, 1024, 0, 0)
    assert table.seconds(work_of_lengths([], [(64, 1024)])) == pytest.approx(expected * 1e-6)
    assert not table.is_outside


def test_chunks_keep_their_tokens_and_pairs(profile, budget_of):
    table = table_of(profile, budget_of())
    several = work_of_lengths([], [(30, 1000), (10, 200)])
    pairs = 30 * (1000 + 15) + 10 * (200 + 5)
    prefix = pairs / 40 - 20
    expected = dense_us(40) + 2 * (10 + 2) + 2 * attention_us(40, prefix, 0, 0)
    assert table.seconds(several) == pytest.approx(expected * 1e-6)
    # Two fresh prompts have fewer pairs than one of all their tokens.
    fresh = work_of_lengths([], [(30, 0), (30, 0)])
    expected = dense_us(60) + 2 * (10 + 2) + 2 * attention_us(sqrt(1800), 0, 0, 0)
    assert table.seconds(fresh) == pytest.approx(expected * 1e-6)


def test_unequal_decodes_count_as_two_lengths_with_their_moments(profile, budget_of):
    table = table_of(profile, budget_of())
    lengths = [201] * 6 + [1001] * 2
    # Two of eight are long, so alpha is 0.5 * 2 / 8 of what lies between 400 and 1000 tokens.
    mean, top = attention_us(0, 0, 8, 400), attention_us(0, 0, 8, 1000)
    expected = dense_us(8) + 2 * (10 + 8) + 2 * (mean + 0.125 * (top - mean))
    assert table.seconds(work_of_lengths(lengths)) == pytest.approx(expected * 1e-6)


def test_without_a_skew_profile_only_the_mean_counts(tmp_path, budget_of):
    table = table_of(write_profile(tmp_path / "flat", skew=False), budget_of())
    unequal, equal = work_of_lengths([201] * 6 + [1001] * 2), work_of_lengths([401] * 8)
    assert table.seconds(unequal) == table.seconds(equal)


def test_last_tokens_of_prompts_are_decodes_unless_a_chunk_is_beside_them(profile, budget_of):
    table = table_of(profile, budget_of())
    alone = work_of_lengths([201] * 4, [(1, 1000), (1, 500)])
    decodes = work_of_lengths([201] * 4 + [1001, 501])
    assert table.seconds(alone) == table.seconds(decodes)
    beside = work_of_lengths([201] * 4, [(1, 1000), (16, 500)])
    assert table.seconds(beside) == table.seconds(
        work_of_lengths([201] * 4, [(16, 500), (1, 1000)])
    )
    assert table.seconds(beside) != table.seconds(work_of_lengths([201] * 4 + [1001], [(16, 500)]))


def test_engine_costs_by_hand(profile, budget_of):
    costs = VllmCosts(graph_gap=1e-6, stream_gap=3e-6, graph_sizes=(1, 2, 4, 8), table_row=5500)
    free, priced = table_of(profile, budget_of()), table_of(profile, budget_of(), costs)
    kernels = free.profile.kernels
    graph, eager = work_of_lengths([101] * 3), work_of_lengths([101] * 9)
    # Three rows are padded to four, and five thousand five hundred bytes a row take 0.1 us.
    padding = (dense_us(4) - dense_us(3)) * 1e-6
    rows = 5500 / LINKED.to_device_bandwidth
    assert rows == pytest.approx(1e-7)
    assert priced.seconds(graph) - free.seconds(graph) == pytest.approx(
        kernels * 1e-6 + padding + 3 * rows
    )
    assert priced.seconds(eager) - free.seconds(eager) == pytest.approx(kernels * 3e-6 + 9 * rows)


def test_graph_sizes_are_those_of_vllm():
    assert graph_sizes(4, 2048) == (1, 2, 4, 8)
    assert graph_sizes(128, 2048)[-3:] == (240, 248, 256)
    assert graph_sizes(1024, 8192)[-2:] == (496, 512)
    assert graph_sizes(256, 100)[-1] == 96
    assert len(graph_sizes(256, 8192)) == 3 + 31 + 17
    assert VllmCosts.of(128, 2048, 131072).table_row == 32768
    assert VllmCosts.of(128, 2048, 131072, eager=True).graph_sizes == ()


def test_steps_outside_the_profile_warn_once_and_are_listed(profile, budget_of):
    table = table_of(profile, budget_of())
    with pytest.warns(ProfileRangeWarning, match="kv_decode from 9999 to 9999 asked, 16 to 4096"):
        table.seconds(work_of_lengths([10000] * 2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table.seconds(work_of_lengths([20000] * 2))
    assert "kv_decode from 9999 to 19999 asked, 16 to 4096 profiled" in table.outside


def test_copies_and_swaps_are_priced_by_the_sheet(profile, budget_of):
    table = table_of(profile, budget_of())
    plain, copying = work_of_lengths([101] * 3), work_of_lengths([101] * 3)
    copying.copy_bytes = 10**6
    bandwidth = LINKED.memory_bandwidth * LINKED.copy_efficiency
    assert table.seconds(copying) - table.seconds(plain) == pytest.approx(2e6 / bandwidth)
    assert table.swap_seconds(55, to_host=True) == pytest.approx(
        LINKED.link_latency + 55 / LINKED.to_host_bandwidth
    )


def test_what_a_layerwise_profile_cannot_time_is_refused(profile, budget_of):
    with pytest.raises(InputError, match="full attention only"):
        table_of(profile, budget_of("windowed"))
    with pytest.raises(InputError, match="expected table:DIR"):
        Table.of(budget_of(), LINKED, "")
    assert Table.of(budget_of(), LINKED, str(profile)).costs.graph_sizes == graph_sizes(6, 128)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 6000), min_size=1, max_size=20), st.integers(1, 40))
def test_a_run_of_steps_has_the_bits_of_its_steps(tmp_path_factory, lengths, steps):
    profile = tmp_path_factory.getbasetemp() / "crooked"
    if not profile.exists():
        write_profile(profile, crooked_us)
    table = _crooked_table(profile)
    grown = np.arange(1, steps + 1, dtype=np.int64)
    n, total = len(lengths), sum(lengths)
    squares = sum(length * length for length in lengths)
    run = Work(
        tokens=n,
        sequences=n,
        reads=(),
        decodes=n,
        decode_context=total + n * grown,
        decode_squares=squares + 2 * total * grown + n * grown * grown,
        decode_longest=max(lengths) + grown,
        steps=steps,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ProfileRangeWarning)
        at_once = np.broadcast_to(table.seconds(run), steps)
        for k in range(1, steps + 1):
            single = table.seconds(work_of_lengths([length + k for length in lengths]))
            assert single == at_once[k - 1]


_TABLES: dict[Path, Table] = {}


def _crooked_table(profile):
    if profile not in _TABLES:
        from sim.layers import AttentionSpec, LayerSpec
        from sim.model import ModelSpec

        attention = AttentionSpec(heads=4, kv_heads=2, head_dim_k=32, head_dim_v=32)
        model = ModelSpec("small", (LayerSpec(attention=attention),) * 3, hidden=128, vocab=100)
        budget = Budget(model, bytes=1 << 30, max_seqs=16, max_batched_tokens=64)
        costs = VllmCosts.of(16, 64, 8192)
        _TABLES[profile] = Table(budget, LINKED, read_profile(profile, 3), costs)
    return _TABLES[profile]
