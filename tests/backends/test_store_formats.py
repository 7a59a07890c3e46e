"""Storage formats: bit patterns, rounding, and the bounds that verification relies on."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from backends.formats import FORMATS, format_of
from sim.dtypes import kv_type
from workloads.errors import InputError

ROWS = hnp.arrays(
    np.float32,
    (3, 64),
    elements=st.floats(-300, 300, width=32, allow_nan=False),
)


def round_trip(name: str, rows: np.ndarray) -> np.ndarray:
    form = format_of(name)
    return form.decode(np, form.encode(np, rows))


@pytest.mark.parametrize("name", sorted(FORMATS))
@given(rows=ROWS)
@settings(max_examples=60, deadline=None)
def test_a_round_trip_stays_within_the_bound(name, rows):
    error = np.abs(round_trip(name, rows).astype(np.float64) - rows)
    assert (error <= FORMATS[name].error_bound(np, rows)).all()


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_storage_has_the_size_that_the_simulator_counts(name):
    form = format_of(name)
    stored = form.encode(np, np.zeros((5, 128), np.float32))
    assert stored.shape == (5, *form.storage_shape(128)) and stored.dtype == form.dtype
    assert stored.nbytes == 5 * kv_type(name).bytes_of(128)


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_what_was_read_is_written_back_unchanged(name):
    rows = np.random.default_rng(1).normal(size=(20, 64)).astype(np.float32)
    form = format_of(name)
    if name in ("q8_0", "q4_0"):  # their scale may be rounded once more
        pytest.skip("blocks take a new scale from what was read")
    stored = form.encode(np, rows)
    assert (form.encode(np, form.decode(np, stored)) == stored).all()


def test_fp8_takes_the_nearest_value_and_the_even_one_of_two():
    form = format_of("fp8")
    codes = np.arange(0x7F, dtype=np.uint8)
    values = form.decode(np, codes).astype(np.float64)
    assert values[0x7E] == 448 and values[1] == 2.0**-9 and (np.diff(values) > 0).all()
    rng = np.random.default_rng(2)
    middles = (values[1:] + values[:-1]) / 2
    samples = np.concatenate([rng.uniform(0, 460, 4000), rng.uniform(0, 0.1, 4000), middles])
    samples = samples.astype(np.float32)
    distance = np.abs(values[None] - samples[:, None].astype(np.float64))
    nearest = np.flatnonzero
    for sample, code, row in zip(samples, form.encode(np, samples), distance, strict=True):
        best = nearest(row == row.min())
        expected = best[0] if len(best) == 1 else next(c for c in best if c % 2 == 0)
        assert code == expected, sample
    assert (form.encode(np, -samples) == form.encode(np, samples) + 128).all()


def test_fp8_saturates_and_keeps_nan():
    form = format_of("fp8")
    stored = form.encode(np, np.array([1e9, -np.inf, np.nan, 0.0], np.float32))
    assert stored.tolist() == [0x7E, 0xFE, 0x7F, 0]


def test_bf16_rounds_to_even():
    one = np.float32(1).view(np.uint32)
    bits = np.array([one + 0x7FFF, one + 0x8000, one + 0x8001, one + 0x18000], np.uint32)
    assert format_of("bf16").encode(np, bits.view(np.float32)).tolist() == [
        0x3F80,
        0x3F80,
        0x3F81,
        0x3F82,
    ]


def test_bf16_keeps_nan():
    form = format_of("bf16")
    quiet = np.array([0x7F800001, 0x7FFFFFFF], np.uint32).view(np.float32)
    assert np.isnan(form.decode(np, form.encode(np, quiet))).all()


def test_q8_block_by_hand():
    """Amax 254 makes the unit 2: 5 / 2 = 2.5 goes to 3 and -5 to -3, away from zero."""
    row = np.zeros(32, np.float32)
    row[:4] = [254, 5, -5, 2]
    stored = format_of("q8_0").encode(np, row)
    assert stored.shape == (1, 34)
    assert stored[0, :2].tobytes() == np.float16(2).tobytes()
    assert stored[0, 2:6].view(np.int8).tolist() == [127, 3, -3, 1]


def test_q4_block_by_hand():
    """The largest magnitude, -8, makes the unit 1; +8 has no quant and becomes +7."""
    row = np.zeros(32, np.float32)
    row[[0, 1, 2, 16, 31]] = [-8, 8, 0.5, 3, -7]
    stored = format_of("q4_0").encode(np, row)
    assert stored.shape == (1, 18)
    assert stored[0, :2].tobytes() == np.float16(1).tobytes()
    assert stored[0, 2] == 0 | 11 << 4
    assert stored[0, 3] & 15 == 15 and stored[0, 4] & 15 == 9
    assert stored[0, 17] == 8 | 1 << 4


@pytest.mark.parametrize(("name", "kind"), [("q8_0", "Q8_0"), ("q4_0", "Q4_0"), ("bf16", "BF16")])
def test_bytes_are_those_of_ggml(name, kind):
    gguf = pytest.importorskip("gguf", reason="gguf, ggml's own Python quantisation, is missing")
    rows = np.random.default_rng(3).normal(size=(50, 128)).astype(np.float32)
    rows[0] = 0
    qtype = getattr(gguf.GGMLQuantizationType, kind)
    expected = gguf.quants.quantize(rows, qtype)
    stored = format_of(name).encode(np, rows)
    assert stored.reshape(50, -1).view(np.uint8).tolist() == expected.view(np.uint8).tolist()
    decoded = format_of(name).decode(np, stored)
    assert (decoded == gguf.quants.dequantize(expected, qtype)).all()


def test_a_type_without_storage_is_refused():
    with pytest.raises(InputError, match=r"KV type 'q5_1' cannot be stored"):
        format_of("q5_1")
