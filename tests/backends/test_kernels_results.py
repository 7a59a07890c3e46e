"""The CUDA kernels do what the array code does: to the bit where rows are kept.

They run on the CPU, device, and on a GPU where there is one.
"""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from backends.arrays import Backend
from backends.choice import backend_of
from backends.decode import DecodeBatch, decode, splits_of
from backends.formats import FORMATS
from backends.kernel_store import KernelStore
from backends.shape import RowShape
from backends.softmax import attention
from backends.store import KVStore
from backends.verification.scenarios import GENERAL, scenarios_of
from workloads.errors import InputError

CELLS = 64
ROW = RowShape(2, 64, 64)


@pytest.fixture(scope="module", params=["emulated", pytest.param("cupy", marks=pytest.mark.gpu)])
def device(request):
    try:
        return backend_of(request.param)
    except InputError as missing:
        pytest.skip(str(missing))


def pair(device, kind: str, row: RowShape = ROW, cells: int = CELLS, layers: int = 2):
    """A plain store and one of kernels, with the same rows in all cells."""
    rng = np.random.default_rng(5)
    stores = (
        KVStore(Backend(), cells, row, kind, kind, layers=layers),
        KernelStore(device, cells, row, kind, kind, layers=layers),
    )
    for layer in range(layers):
        k = rng.normal(size=(cells, row.kv_heads, row.k_dim)).astype(np.float32)
        v = rng.normal(size=(cells, row.kv_heads, row.v_dim)).astype(np.float32)
        k[3] *= 1e3
        k[4] = v[5] = 0
        where = rng.permutation(cells)
        for store in stores:
            store.write(layer, where, k, v)
    return stores


def assert_same(one: KVStore, other: KVStore) -> None:
    for mine, theirs in ((one.k, other.k), (one.v, other.v)):
        assert mine.tobytes() == other.backend.on_host(theirs).tobytes()


def attended(device, store: KVStore, q, batch: DecodeBatch, scale: float, sinks=None):
    """`decode` with everything put on the device, and its output brought back."""
    put = device.on_device
    moved = replace(
        batch,
        where=put(batch.where),
        first=put(batch.first),
        end=put(batch.end),
        mask=None if batch.mask is None else put(batch.mask),
    )
    sinks = None if sinks is None else put(sinks)
    return device.on_host(decode(store, 0, put(q), moved, scale, sinks))


@pytest.mark.parametrize("kind", FORMATS)
def test_rows_are_written_and_read_to_the_bit(device, kind):
    plain, kernels = pair(device, kind)
    assert_same(plain, kernels)
    cells = np.array([7, 0, 63, 7])
    for mine, theirs in zip(kernels.read(1, cells), plain.read(1, cells), strict=True):
        assert mine.dtype == theirs.dtype and (device.on_host(mine) == theirs).all()


@pytest.mark.parametrize("kind", FORMATS)
def test_keys_are_turned_to_the_bit(device, kind):
    plain, kernels = pair(device, kind)
    cells, deltas = np.array([9, 2, 40, 41]), np.array([-5, 3, -300, 1])
    before = plain.k.copy()
    for store in (plain, kernels):
        store.shift(cells, deltas)
    assert_same(plain, kernels)
    assert (plain.k != before).any(axis=tuple(range(2, before.ndim)))[:, cells].all()


@pytest.mark.parametrize("kind", ["f32", "bf16", "fp8", "q8_0", "q4_0"])
@pytest.mark.parametrize(
    ("src", "dst"),
    [
        (np.arange(10, 30), np.arange(40, 60)),
        (np.arange(10, 50), np.arange(7, 47)),
        (np.arange(10, 50), np.arange(13, 53)),
        (np.array([1, 2, 3, 9, 8, 20]), np.array([30, 31, 32, 50, 51, 9])),
        (np.array([], dtype=np.int64), np.array([], dtype=np.int64)),
    ],
    ids=["apart", "down", "up", "scattered", "nothing"],
)
def test_runs_are_copied(device, kind, src, dst):
    plain, kernels = pair(device, kind, RowShape(1, 32, 32))
    for store in (plain, kernels):
        store.copy(src, dst)
    assert_same(plain, kernels)


def reference(store: KVStore, q, cells, counts, scale, sinks=None):
    out = []
    for query, own, mask in zip(q, cells, counts, strict=True):
        k, v = (part.astype(np.float64) for part in store.read(0, own))
        wide = None if sinks is None else sinks.astype(np.float64)
        asked = query[None].astype(np.float64)
        out.append(attention(np, asked, k, v, mask[None].astype(bool), scale, wide)[0])
    return np.stack(out)


def queries(batch: int, heads: int, dim: int):
    return np.random.default_rng(8).normal(size=(batch, heads, dim)).astype(np.float32)


def int32(values):
    return np.asarray(values, dtype=np.int32)


@pytest.mark.parametrize(
    ("kind", "dim", "heads"),
    [
        *((kind, 64, 4) for kind in FORMATS),
        *(("bf16", dim, heads) for dim, heads in itertools.product((32, 128, 256), (2, 16))),
    ],
)
def test_decode_through_block_tables(device, kind, dim, heads):
    plain, kernels = pair(device, kind, RowShape(2, dim, dim), cells=256, layers=1)
    rng = np.random.default_rng(9)
    lengths = int32([1, 130, 97])
    table = int32(np.stack([rng.permutation(16) for _ in lengths]))
    batch = DecodeBatch("TABLE", table, int32([0, 0, 30]), lengths, 130, 198, block=16)
    q = queries(3, heads, dim)
    cells = [
        table[b, np.arange(start, n) // 16] * 16 + np.arange(start, n) % 16
        for b, (start, n) in enumerate(zip(batch.first, lengths, strict=True))
    ]
    counts = [np.ones(len(own)) for own in cells]
    got = attended(device, kernels, q, batch, dim**-0.5)
    expected = reference(plain, q, cells, counts, dim**-0.5)
    assert np.abs(got - expected).max() < 5e-6 * max(1, np.abs(expected).max())


def test_decode_over_a_shared_range_reads_what_is_masked(device, monkeypatch):
    """Everything in the range is read, and only what the mask names counts."""
    plain, kernels = pair(device, "f16", cells=320, layers=1)
    monkeypatch.setattr(device, "processors", 40)
    mask = np.random.default_rng(3).integers(0, 2, (3, 300)).astype(np.uint8)
    mask[2] = 0
    batch = DecodeBatch(
        "RANGE", int32([[4], [20], [4]]), int32([0, 0, 0]), int32([300, 256, 300]), 300, 856, mask
    )
    q, sinks = queries(3, 4, 64), np.array([0.5, -1, 2, 0], np.float32)
    cells = [np.arange(4, 304), np.arange(20, 276), np.arange(4, 304)]
    counts = [mask[0], mask[1][:256], mask[2]]
    for sink in (None, sinks):
        got = attended(device, kernels, q, batch, 0.125, sink)
        expected = reference(plain, q, cells, counts, 0.125, sink)
        assert np.abs(got - expected).max() < 5e-6
        assert (got[2] == 0).all()


def test_decode_over_a_ring(device):
    plain, kernels = pair(device, "f16", cells=100, layers=1)
    first, end = int32([40, 0]), int32([75, 5])
    batch = DecodeBatch("RING", int32([[10], [60]]), first, end, 35, 40, ring=40)
    cells = [10 + np.arange(40, 75) % 40, 60 + np.arange(5)]
    q = queries(2, 4, 64)
    got = attended(device, kernels, q, batch, 0.125)
    expected = reference(plain, q, cells, [np.ones(35), np.ones(5)], 0.125)
    assert np.abs(got - expected).max() < 5e-6


@pytest.mark.parametrize("longest", [1, 255, 256, 1000, 8192, 131072])
@pytest.mark.parametrize("batch", [1, 8, 64])
@pytest.mark.parametrize("groups", [1, 8])
def test_splits_cover_the_longest_sequence(longest, batch, groups):
    splits, chunk = splits_of(longest, batch * longest, groups, 528)
    assert (splits - 1) * chunk < longest <= splits * chunk
    assert chunk % 32 == 0


@pytest.mark.parametrize(
    ("batch", "length", "splits"), [(64, 8192, 1), (32, 4096, 2), (8, 8192, 8), (1, 8192, 32)]
)
def test_equal_sequences_fill_the_processors_in_one_round(batch, length, splits):
    """8 KV heads on the 132 multiprocessors of an H100, four blocks each."""
    assert splits_of(length, batch * length, 8, 4 * 132)[0] == splits


def test_one_long_sequence_is_not_left_to_few_blocks():
    """Half of all items in one of 64 sequences: it may not take longer than the rest."""
    longest, total = 1 << 18, 1 << 19
    splits, chunk = splits_of(longest, total, 8, 528)
    rounds = -(-8 * total // chunk // 528)
    assert rounds * chunk < 1.1 * 8 * total / 528 and splits > 30


def test_length_splits_do_not_change_the_output(device, monkeypatch):
    _, kernels = pair(device, "f32", cells=1100, layers=1)
    monkeypatch.setattr(device, "processors", 100)
    batch = DecodeBatch("RANGE", int32([[0]]), int32([0]), int32([1100]), 1100, 1100)
    q = queries(1, 2, 64)
    split = attended(device, kernels, q, batch, 0.125)
    monkeypatch.setattr(device, "processors", 1)
    alone = attended(device, kernels, q, batch, 0.125)
    assert 0 < np.abs(alone - split).max() < 1e-6


@pytest.mark.parametrize(
    ("policy", "name"),
    [("paged", "shared prefixes, tight"), ("ring", "context shift"), ("contiguous", "growing")],
)
def test_a_policy_is_verified_through_the_kernels(device, policy, name):
    scenario = next(each for each in scenarios_of(policy) if each.name == name)
    report = scenario.run(scenario.policy(policy), device.name)
    assert report.failures == [] and report.passed


def test_a_kernel_that_forgets_the_last_row_is_noticed(device, monkeypatch):
    sound = type(device).kernel

    def broken(self, file, name, defines):
        launch = sound(self, file, name, defines)
        if name != "decode":
            return launch
        return lambda grid, block, args: launch(grid, block, (*args[:5], args[5] - 1, *args[6:]))

    monkeypatch.setattr(type(device), "kernel", broken)
    report = GENERAL[0].run(GENERAL[0].policy("paged"), device.name)
    assert report.failures
