"""The code that runs on a GPU, run without one: every operation, and CuPy's own word on the calls.

`EmulatedBackend` is `CupyBackend` over a module that refuses what CuPy refuses. What it was asked
is held against the real CuPy, which can be imported without a GPU.
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from backends import cudnn_attention, cupy_backend, measure_gpu, references, verify
from backends.arrays import Backend
from backends.calibrate import run
from backends.calibrate.benches import Benches
from backends.calibrate.plan import Extent, points_of
from backends.calibrate.timing import Effort, timed
from backends.ceilings import reaches
from backends.choice import backend_of
from backends.emulation import cupy as emulated
from backends.emulation import kernels as emulated_kernels
from backends.emulation.device import UNWRITTEN, DeviceArray
from backends.formats import FORMATS
from backends.kernel_store import store_of
from backends.kernels import source_of
from backends.shape import RowShape
from backends.softmax import attention
from backends.store import KVStore
from backends.summary import attend_atoms, joined, kept, summarized
from backends.verification import scenarios
from backends.verification.models import checking_model
from backends.verification.scenarios import scenarios_of
from sim.timing import terms
from workloads.errors import InputError

ROW = RowShape(2, 64, 64)
CELLS = 48
EFFORT = Effort(repeats=3, warmup=1, seconds=0.0)
TINY = Extent(
    cells=1024,
    copied=(1 << 12,),
    square=(16,),
    rows=(16, 64),
    batches=(1, 4),
    lengths=(32,),
    chunks=(8, 16),
    prefixes=(0, 32),
    tokens=(1, 4),
    widest=64,
)
MODEL = checking_model("full")


@pytest.fixture(autouse=True)
def small_flush(monkeypatch):
    monkeypatch.setattr(cupy_backend, "FLUSHED", 1 << 10)


@pytest.fixture(scope="module")
def device():
    try:
        return backend_of("emulated")
    except InputError as missing:
        pytest.skip(str(missing))


def stores(device, kind: str, transposed: bool, row: RowShape = ROW):
    """The same rows on the host and on the device."""
    rng = np.random.default_rng(2)
    made = [
        store_of(backend, CELLS, row, kind, kind, layers=2, v_transposed=transposed)
        for backend in (Backend(), device)
    ]
    for layer in range(2):
        k, v = (
            rng.normal(size=(CELLS, row.kv_heads, dim)).astype(np.float32)
            for dim in (row.k_dim, row.v_dim)
        )
        for store in made:
            store.write(layer, np.arange(CELLS), k, v)
    return made


def assert_same(one: KVStore, other: KVStore) -> None:
    for mine, theirs in ((one.k, other.k), (one.v, other.v)):
        assert mine.tobytes() == other.backend.on_host(theirs).tobytes()


LAYOUTS = [(kind, False) for kind in FORMATS] + [
    (kind, True) for kind in FORMATS if FORMATS[kind].block == 1
]


@pytest.mark.parametrize(("kind", "transposed"), LAYOUTS)
def test_every_operation_of_a_store_does_on_the_device_what_it_does_on_the_host(
    device, kind, transposed
):
    host, there = stores(device, kind, transposed)
    src, dst = np.array([1, 2, 3, 20, 9]), np.array([30, 31, 32, 2, 40])
    out = []
    for store in (host, there):
        store.copy(src, dst)
        store.shift(np.array([4, 5, 30]), np.array([-3, 7, 100]))
        rows = store.swap_out(np.array([7, 30, 2]))
        store.write(1, np.array([7, 2]), *(np.ones((2, 2, 64), np.float32) for _ in range(2)))
        store.swap_in(rows, np.array([11, 12]), np.array([2, 0]))
        store.backend.synchronize()
        out.append(rows)
    assert_same(host, there)
    assert out[0].k.tobytes() == out[1].k.tobytes() and out[0].v.tobytes() == out[1].v.tobytes()
    for index in (slice(3, 40), np.array([5, 5, 31])):
        for mine, theirs in zip(host.read(1, index), there.read(1, index), strict=True):
            assert (mine == device.on_host(theirs)).all()


def test_keys_whose_halves_are_no_whole_blocks_are_turned_too(device):
    host, there = stores(device, "q8_0", False, RowShape(1, 32, 32))
    for store in (host, there):
        store.shift(np.arange(5), np.arange(5) - 9)
    assert_same(host, there)


def test_nothing_to_do_is_done(device):
    _, there = stores(device, "bf16", False)
    none = np.zeros(0, np.int64)
    there.copy(none, none)
    there.shift(none, none)
    there.write(0, none, *(np.zeros((0, 2, 64), np.float32) for _ in range(2)))
    assert [len(part) for part in there.read(0, none)] == [0, 0]


def test_rows_on_the_host_are_there_when_somebody_has_waited(device):
    _, there = stores(device, "f16", False)
    rows = there.swap_out(np.array([4]))
    assert (rows.k.view(np.uint8) == UNWRITTEN).all()
    device.synchronize()
    assert (rows.k == device.on_host(there.k)[:, [4]]).all()


def test_a_buffer_is_kept_until_it_was_read(device):
    _, there = stores(device, "f16", False)
    device.synchronize()
    rows = there.swap_out(np.array([4, 5]))
    there.swap_in(rows, np.array([6]), np.array([1]))
    assert [id(buffer) for _, buffer in device._sent] == [id(rows.k), id(rows.v)]
    device.synchronize()
    assert not device._sent


@pytest.mark.parametrize("with_sinks", [False, True])
def test_attention_by_matrix_products(device, with_sinks):
    rng = np.random.default_rng(4)
    q, k, v = (
        rng.normal(size=size).astype(np.float32) for size in ((5, 6, 16), (9, 2, 16), (9, 2, 8))
    )
    mask, sinks = rng.random((5, 9)) < 0.6, rng.normal(size=6).astype(np.float32)
    mask[3] = False
    put = device.on_device
    got = attention(
        device.xp, put(q), put(k), put(v), put(mask), 0.25, put(sinks) if with_sinks else None
    )
    expected = attention(np, q, k, v, mask, 0.25, sinks if with_sinks else None)
    assert np.abs(device.on_host(got) - expected).max() < 1e-6


def test_summaries_of_old_tokens(device):
    rng = np.random.default_rng(6)
    q, k, v = (
        rng.normal(size=size).astype(np.float32) for size in ((3, 4, 8), (40, 2, 8), (40, 2, 8))
    )
    outs = []
    for backend in (Backend(), device):
        put = backend.on_device
        old, new = (
            kept(backend, put(k[part]), put(v[part])) for part in (slice(30), slice(30, 40))
        )
        atoms = joined(backend, summarized(backend, old, 7), new)
        outs.append(backend.on_host(attend_atoms(backend, put(q), atoms, 0.3)))
    assert np.abs(outs[0] - outs[1]).max() < 1e-6


def test_every_point_of_a_calibration_runs_on_the_device(device):
    benches = Benches(device, MODEL, TINY)
    seen = set()
    for point in points_of(MODEL, ["bf16", "q8_0"], TINY):
        works, found = benches.of(point)
        for work in works:
            work()
        assert found
        seen.add(point.kernel.partition(" ")[0])
    assert seen == {*terms.FORMS, terms.MIXED}


def test_kernels_are_held_against_copies(device):
    small = {"copied": 1 << 12, "rows": 256, "decodes": ((2, 64), (1, 32)), "effort": EFFORT}
    found = list(reaches(device, MODEL, "bf16", **small))
    assert len(found) > 8 and all(reach.seconds > 0 for reach in found)
    attributes = device.kernel_attributes()
    assert any(name.startswith("decode K_TYPE=BF16") for name in attributes)


def test_measured_ceilings_are_written(device, monkeypatch, tmp_path):
    small = {"copied": 1 << 12, "rows": 256, "decodes": ((2, 64), (1, 32)), "effort": EFFORT}
    monkeypatch.setattr(
        measure_gpu, "reaches", lambda backend, model, kind: reaches(backend, MODEL, kind, **small)
    )
    lines, passed = measure_gpu._ceilings(device, "bf16", tmp_path / "ceilings.json")
    written = json.loads((tmp_path / "ceilings.json").read_text())
    assert passed and written["lines"] == lines and len(written["reached"]) > 8
    assert "cudaDevAttrClockRate" in written["clocks"] and written["kernels"]
    assert sum(line.startswith(("  pass: ", "  MISS: ")) for line in lines) == 3 + 4


def test_the_one_command_for_a_gpu_from_end_to_end(device, monkeypatch, tmp_path, capsys):
    """All of `measure_gpu --backend cupy`, on as little as can be, with cuDNN missing."""
    monkeypatch.setattr(device, "name", "cupy")
    for module in (measure_gpu, run, verify):
        monkeypatch.setattr(module, "backend_of", lambda name: device)
    few = replace(scenarios.GENERAL[0], workload=replace(scenarios.GENERAL[0].workload, requests=2))
    monkeypatch.setattr(measure_gpu, "scenarios_of", lambda policy: [few])
    monkeypatch.setattr(measure_gpu, "POLICIES", {"paged": measure_gpu.POLICIES["paged"]})
    monkeypatch.setattr(measure_gpu, "model_of", lambda name: MODEL)
    small = {"copied": 1 << 12, "rows": 256, "decodes": ((2, 64), (1, 32)), "effort": EFFORT}
    monkeypatch.setattr(
        measure_gpu, "reaches", lambda backend, model, kind: reaches(backend, MODEL, kind, **small)
    )
    monkeypatch.setattr(run, "EXTENTS", {("cupy", True): TINY})
    monkeypatch.setattr(run, "QUICK", EFFORT)
    monkeypatch.setattr(references, "find_spec", lambda name: None)
    monkeypatch.setattr(
        cudnn_attention, "import_module", lambda name: importlib.import_module("no_such_module")
    )
    args = ["--out", str(tmp_path), "--model", "checking", "--quick"]
    assert measure_gpu.main(args) == 0
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"verify-paged.json", "ceilings.json", "emulated-checking.json"}
    made = json.loads((tmp_path / "emulated-checking.json").read_text())
    assert made["prefill"]["bf16"].startswith("matmul (cuDNN: nvidia-cudnn-frontend is not")
    assert made["backend"] == "cupy" and made["element_bytes"] == 2
    printed = capsys.readouterr().out
    assert "MISS" in printed or "pass" in printed
    assert measure_gpu.main(args) == 0
    assert capsys.readouterr().out.count("done before") == 3


class Torch:
    """As much of PyTorch as the references call."""

    uint8, int32, bfloat16 = np.uint8, np.int32, np.float32
    cuda = SimpleNamespace(is_available=lambda: True)

    @staticmethod
    def randn(*sizes, device, dtype):
        return np.random.default_rng(len(sizes)).normal(size=sizes).astype(dtype)

    @staticmethod
    def empty(n, *, dtype, device):
        return np.empty(n, dtype)

    @staticmethod
    def arange(*ends, dtype, device):
        return np.arange(*ends, dtype=dtype)

    @staticmethod
    def full(size, value, *, dtype, device):
        return np.full(size, value, dtype)

    class nn:
        class functional:
            @staticmethod
            def scaled_dot_product_attention(q, k, v, enable_gqa):
                assert enable_gqa and q.shape[1] > k.shape[1] and k.shape == v.shape


class FlashInfer:
    """Its wrapper for paged decodes; `plan` is checked as its documentation has it."""

    class BatchDecodeWithPagedKVCacheWrapper:
        def __init__(self, workspace, layout):
            assert layout == "NHD" and workspace.nbytes == 128 << 20

        def plan(self, indptr, indices, last, heads, kv_heads, dim, page, **kinds):
            self.pages = len(indices)
            assert len(indptr) == len(last) + 1 and indptr[-1] == self.pages
            assert (last > 0).all() and (last <= page).all()
            assert kinds.keys() == {"q_data_type", "kv_data_type"}

        def run(self, q, cache):
            assert cache.shape[:3] == (self.pages, 2, 16) and q.ndim == 3


def test_references_are_timed_on_the_same_shape(device, monkeypatch):
    def imported(name):
        if name == "cudnn":
            raise ImportError
        return {"torch": Torch, "flashinfer": FlashInfer}[name]

    monkeypatch.setattr(references, "find_spec", lambda name: name)
    monkeypatch.setattr(references, "import_module", imported)
    monkeypatch.setattr(cudnn_attention, "import_module", imported)
    monkeypatch.setattr(device, "name", "cupy")
    benches = Benches(device, MODEL, TINY)
    store = benches.store("bf16")
    found = references.reference_seconds(device, store, benches.shape, 4, 100, EFFORT)
    assert found["PyTorch"] > 0 and found["FlashInfer"] > 0
    assert found["cuDNN"].startswith("cuDNN: nvidia-cudnn-frontend is not installed")


POLICY_SCENARIOS = [
    ("none", "room for all"),
    ("contiguous", "growing, compaction, swap"),
    ("iswa", "streams"),
    ("paged", "samples, tight"),
    ("hybrid", "rows beside states, swap"),
    ("radix", "shared prefixes, tight"),
]


@pytest.mark.parametrize(("policy", "name"), POLICY_SCENARIOS)
def test_policies_are_verified_on_the_device(device, policy, name):
    scenario = next(each for each in scenarios_of(policy) if each.name == name)
    few = replace(scenario.workload, requests=4)
    report = replace(scenario, workload=few).run(scenario.policy(policy), "emulated")
    assert report.passed, report.failures


# Times.


@pytest.mark.parametrize(
    ("enough", "leads"), [(1, [1]), (3, [1, 4]), (9, [1, 4, 16]), (99, [1, 4, 16])]
)
def test_a_host_that_is_late_gets_a_longer_lead(device, monkeypatch, enough, leads):
    """Work is timed again, behind more, as long as the device came to it before all was started."""
    fills, seen = [], []

    class Start(emulated.Event):
        done = property(lambda self: len(fills) < enough, lambda self, value: None)

    def work():
        seen.append(len(fills))

    monkeypatch.setattr(emulated.cuda, "Event", Start)
    monkeypatch.setattr(DeviceArray, "fill", lambda self, value: fills.append(value))
    monkeypatch.setattr(Start, "record", lambda self, stream: None)

    def timed_once():
        work()
        if len(fills) < enough:
            # The next try begins anew; `done` has been asked by then.
            monkeypatch.setattr(Start, "synchronize", lambda self: fills.clear())

    device.seconds(timed_once)
    assert seen == leads


def test_timed_calls_take_every_variant_in_turn(device):
    calls = []
    works = [lambda i=i: calls.append(i) for i in range(3)]
    assert timed(device, works, EFFORT)[3] == 3
    assert set(calls) == {0, 1, 2}


# What the emulation refuses.


def test_arrays_of_host_and_device_do_not_mix(device):
    there, here = device.on_device(np.ones(3, np.float32)), np.ones(3, np.float32)
    for mixed in (
        lambda: there + here,
        lambda: here + there,
        lambda: device.xp.add(there, here),
        lambda: np.add(there, here),
        lambda: np.asarray(there),
        lambda: there[np.array([0])],
        lambda: device.xp.concatenate([there, here]),
    ):
        with pytest.raises(TypeError):
            mixed()
    with pytest.raises(AttributeError, match="no 'sort'"):
        _ = device.xp.sort


def test_kernels_take_what_they_declare(device):
    _, there = stores(device, "f32", False)
    kernel = device.kernel("copies.cu", "copy_runs", {"VECTOR": "uint4"})
    runs = device.on_device(np.zeros((1, 3), np.int32))
    good = (there.k, there.k, runs, np.int32(1), np.int64(0), np.int64(0))
    kernel((1, 1, 1), (256,), good)
    for place, wrong in ((3, 1), (3, np.int64(1)), (4, np.int32(0)), (2, np.zeros((1, 3)))):
        args = (*good[:place], wrong, *good[place + 1 :])
        with pytest.raises(TypeError):
            kernel((1, 1, 1), (256,), args)
    with pytest.raises(TypeError, match="5 arguments"):
        kernel((1, 1, 1), (256,), good[:5])
    with pytest.raises(TypeError, match="elements of int64"):
        sent = device.on_device(np.zeros((1, 3), np.int64))
        kernel((1, 1, 1), (256,), (*good[:2], sent, *good[3:]))
    for grid in ((1, 70000, 1), (0, 1, 1)):
        with pytest.raises(ValueError, match="a grid of"):
            kernel(grid, (256,), good)
    with pytest.raises(ValueError, match="blocks of"):
        kernel((1, 1, 1), (2048,), good)


def test_a_kernel_that_reads_before_its_copy_has_arrived_is_noticed(device):
    """The decode kernel without its wait reads what was in shared memory before."""
    source = source_of("decode.cu")
    assert "wait_for_copies<AHEAD>();" in source
    defines = {"K_TYPE": "F16", "V_TYPE": "F16", "HEAD_DIM": 32, "HEADS": 2, "LAYOUT": "RANGE"}
    options = tuple(f"-D{name}={value}" for name, value in defines.items())
    outs = []
    for text in (source, source.replace("wait_for_copies<AHEAD>();", "")):
        run = emulated_kernels.function_of(text, "decode", options)
        rng = np.random.default_rng(0)
        q, rows = rng.normal(size=(1, 2, 32)), rng.normal(size=(2, 300, 1, 32))
        part, sums = np.zeros((1, 2, 1, 32), np.float32), np.zeros((1, 2, 1, 2), np.float32)
        zero = np.zeros(1, np.int32)
        args = [
            *(q.astype(np.float32), *rows.astype(np.float16), zero[None], zero, zero + 300),
            *(np.uintp(0), np.int32(1), np.int32(0), np.int32(1), np.int32(1), np.int32(300)),
            *(np.float32(1), part, sums),
        ]
        run((1, 1, 1), (128,), args)
        outs.append(part / sums[..., 1:])
    expected = attention(
        np, q, *rows.astype(np.float16).astype(np.float64), np.ones((1, 300), bool), np.log(2)
    )
    assert np.abs(outs[0][:, :, 0] - expected).max() < 1e-5
    assert not np.abs(outs[1][:, :, 0] - expected).max() < 1e-2


# What the real CuPy says.


@pytest.fixture(scope="module")
def cupy():
    return pytest.importorskip("cupy", reason="CuPy is not installed (extra: dev or gpu)")


def test_cupy_has_every_function_and_takes_what_it_is_given(cupy, device):
    for name in (*emulated.FUNCTIONS, *emulated.TYPES, "inf", "ndarray", "RawModule"):
        assert hasattr(cupy, name), name
    assert len(emulated.CALLS) > 25, "the operations of this file have not run before this test"
    for name, n, options in sorted(emulated.CALLS):
        function = getattr(cupy, name)
        if isinstance(function, cupy.ufunc):
            assert n <= function.nin + function.nout and set(options) <= {"out", "dtype"}, name
        else:
            inspect.signature(function).bind(*range(n), **dict.fromkeys(options))


def test_cupy_has_every_method_of_its_arrays_with_these_parameters(cupy):
    own = {
        name: value
        for name, value in vars(DeviceArray).items()
        if not name.startswith("_") and name != "host"
    }
    assert {"get", "set", "astype", "fill"} <= own.keys()
    for name, value in own.items():
        assert hasattr(cupy.ndarray, name), name
        if callable(value):
            said = re.match(r"[\w.]+\((.*)\)", getattr(cupy.ndarray, name).__doc__)[1]
            for parameter in list(inspect.signature(value).parameters)[1:]:
                assert re.search(rf"(^|[ *]){parameter}\b", said), f"{name}: {parameter} in {said}"


def test_cupy_has_the_rest_of_what_the_backend_uses(cupy):
    for name in vars(emulated.runtime):
        assert hasattr(cupy.cuda.runtime, name), name
    for name in vars(emulated.cuda):
        assert hasattr(cupy.cuda, name), name
    for name in ("record", "synchronize", "done"):
        assert hasattr(cupy.cuda.Event, name)
    assert hasattr(cupy.cuda.Stream, "synchronize") and hasattr(cupy.cuda.Device, "id")
    for name in ("preferred_shared_memory_carveout", "attributes", *cupy_backend.ATTRIBUTES):
        assert hasattr(cupy.RawKernel, name), name
    assert hasattr(cupy.RawModule, "get_function")
    cupy.RawModule(code=source_of("copies.cu"), options=("-std=c++17", "-DVECTOR=uint4"))
    cupyx = pytest.importorskip("cupyx")
    inspect.signature(cupyx.empty_pinned).bind((1,), "f4")


def test_cupys_own_refusal_is_one_line(cupy):
    """With CuPy and without a GPU or its driver."""
    try:
        if cupy.cuda.runtime.getDeviceCount():
            pytest.skip("there is a GPU")
    except cupy.cuda.runtime.CUDARuntimeError:
        pass
    with pytest.raises(InputError, match=r"^backend 'cupy': no [^\n]+$"):
        backend_of("cupy")
