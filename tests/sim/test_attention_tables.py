"""Attention times as aiconfigurator measured them."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from measured_times import LLAMA, write_attention_tables

from sim.budget import Budget
from sim.hardware import hardware_of
from sim.model_files.lookup import model_of
from sim.step import Reads, Work
from sim.timing.attention_tables import DECODE, AttentionTables
from sim.timing.roofline import Roofline
from workloads.errors import InputError

SHARED = Path(os.environ.get("KVLAB_SHARED", Path(__file__).parents[2] / ".." / "shared"))
H100 = SHARED / "data" / "aiconfigurator" / f"h100_sxm_vllm0.24_{DECODE}.parquet"


def budget(model: str = "llama-3.1-8b", kind: str = "bf16") -> Budget:
    return Budget(model_of(model), 1 << 34, kind, kind)


@pytest.fixture
def tables(tmp_path):
    return write_attention_tables(tmp_path)


@cache
def model_at(path: str) -> AttentionTables:
    return AttentionTables.of(budget(), hardware_of("h100"), path)


def attention_ms(path, work: Work):
    """Milliseconds of one layer: the model's time less what a roofline says of the rest."""
    model = model_at(str(path))
    rest = Roofline(budget(), hardware_of("h100"))
    other = work.passes * rest.overhead + rest.linear(work)
    return (np.asarray(model.seconds(work)) - other) / 32 * 1e3


def decodes(n, context, steps=1) -> Work:
    return Work(n, n, (Reads(0, 0, 0),), decodes=n, decode_context=context, steps=steps)


def prefills(*chunks) -> Work:
    return Work(sum(n for n, _ in chunks), len(chunks), (Reads(0, 0, 0),), prefills=tuple(chunks))


def test_decodes_are_interpolated_between_measured_batches_and_lengths(tables):
    assert attention_ms(tables, decodes(4, 4 * 64)) == pytest.approx(1 + 2.56)
    assert attention_ms(tables, decodes(4, 4 * 544)) == pytest.approx(1 + 4 * 5.44)
    assert attention_ms(tables, decodes(10, 10 * 64)) == pytest.approx(1 + 6.4)


def test_a_chunk_costs_its_pairs(tables):
    pairs = sum(range(41, 81))
    assert attention_ms(tables, prefills((40, 40))) == pytest.approx(1 + pairs / 1e3, rel=1e-3)
    two = attention_ms(tables, prefills((40, 40), (64, 0)))
    assert two == pytest.approx(1 + (pairs + 64 * 65 / 2) / 1e3, rel=1e-2)


def test_runs_get_the_bits_of_single_steps(tables):
    model = AttentionTables.of(budget(), hardware_of("h100"), tables)
    context = np.arange(300, 340)
    together = model.seconds(decodes(3, context, steps=40))
    assert together.tolist() == [model.seconds(decodes(3, int(c))) for c in context]


def test_what_was_asked_outside_is_noted(tables):
    model = AttentionTables.of(budget(), hardware_of("h100"), tables)
    model.seconds(decodes(4, 4000))
    assert model.outside == []
    model.seconds(decodes(64, 6400))
    assert model.outside == ["batch from 64 to 64 asked, 1 to 16 profiled"]


@pytest.mark.parametrize(
    ("model", "kind", "message"),
    [
        ("llama-3.1-8b", "q8_0", "expected K and V both of one of f16, bf16, fp8"),
        (
            "llama-3.1-8b",
            "fp8",
            "expected rows of 32 heads, 8 KV heads of 128 elements, KV type fp8",
        ),
        ("llama-3.1-70b", "bf16", "expected rows of 64 heads"),
        ("deepseek-v3", "bf16", "layers without K and V heads"),
    ],
)
def test_shapes_that_were_not_measured_are_refused(tables, model, kind, message):
    with pytest.raises(InputError, match=message):
        AttentionTables.of(budget(model, kind), hardware_of("h100"), tables)


def test_files_that_cannot_be_used_are_refused(tmp_path, tables):
    def of(path):
        return AttentionTables.of(budget(), hardware_of("h100"), str(path))

    with pytest.raises(InputError, match="expected attention-tables:FILE, a"):
        of("")
    with pytest.raises(InputError, match="cannot be read"):
        of(tmp_path / f"b_{DECODE}.parquet")
    (tmp_path / f"c_{DECODE}.parquet").write_text("no table")
    with pytest.raises(InputError, match="is not Parquet"):
        of(tmp_path / f"c_{DECODE}.parquet")
    pd.read_parquet(tables).drop(columns="latency").to_parquet(tmp_path / f"d_{DECODE}.parquet")
    with pytest.raises(InputError, match="expected a column 'latency'"):
        of(tmp_path / f"d_{DECODE}.parquet")


@pytest.mark.skipif(not H100.exists(), reason=f"{H100} is missing")
def test_published_points_come_out_as_they_are():
    frame = pd.read_parquet(H100)
    shape = (frame[list(LLAMA)] == pd.Series(LLAMA)).all(axis=1) & (frame.window_size == 0)
    points = frame[shape].sample(12, random_state=1)
    for point in points.itertuples():
        context = point.batch_size * (point.step + 1)
        assert attention_ms(H100, decodes(point.batch_size, context)) == pytest.approx(
            point.latency, rel=1e-6
        )


@pytest.mark.skipif(not H100.exists(), reason=f"{H100} is missing")
def test_published_decode_times_are_near_the_memory_roofline():
    """64 sequences of 8192 cells read 2 GiB; the H100 moves 3.35 TB a second."""
    cells = 64 * 8192
    at_best = cells * 4096 / hardware_of("h100").memory_bandwidth * 1e3
    assert 1 < float(attention_ms(H100, decodes(64, cells))) / at_best < 1.2


@pytest.mark.skipif(not H100.exists(), reason=f"{H100} is missing")
@pytest.mark.parametrize("name", ["llama-3.1-8b", "llama-3.1-70b", "gemma-3-1b"])
def test_built_in_models_find_their_shapes(name):
    model = AttentionTables.of(budget(name), hardware_of("h100"), str(H100))
    short, long = (model.seconds(decodes(8, 8 * length)) for length in (512, 16384))
    assert 0 < short < long
