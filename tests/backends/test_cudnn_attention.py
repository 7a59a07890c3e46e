"""cuDNN's attention: what it is told about memory is true, and cuDNN takes what it is told.

The first is checked by a stand-in that computes a graph from addresses, dims and strides alone; the
second by cuDNN's own graph builder, which needs no GPU; the numbers themselves on a GPU.
"""

from __future__ import annotations

import ctypes
from types import SimpleNamespace

import numpy as np
import pytest

from backends import cudnn_attention
from backends.choice import backend_of
from backends.cudnn_attention import CudnnAttention, Problem, cudnn_or_refusal, graph_of
from backends.formats import format_of
from backends.kernel_store import store_of
from backends.shape import RowShape
from backends.softmax import attention
from workloads.errors import InputError

ROW = RowShape(2, 32, 32)
CELLS = 128


class Tensor(SimpleNamespace):
    """A declared tensor; setters as cuDNN's, each returns the tensor."""

    __hash__ = object.__hash__

    def __getattr__(self, name):
        if not name.startswith("set_"):
            raise AttributeError(name)

        def put(value):
            setattr(self, name.removeprefix("set_"), value)
            return self

        return put

    def at(self, address):
        """The memory there, as declared, as f32."""
        spans = zip(self.dim, self.stride, strict=True)
        n = 1 + sum((size - 1) * step for size, step in spans)
        kind = {"HALF": np.uint16, "BFLOAT16": np.uint16, "INT32": np.int32}[self.data_type]
        raw = (ctypes.c_char * (n * np.dtype(kind).itemsize)).from_address(address)
        flat = np.frombuffer(raw, kind)
        bytes_of = [step * flat.itemsize for step in self.stride]
        return np.lib.stride_tricks.as_strided(flat, self.dim, bytes_of)


class Graph:
    """Computes what was declared, when it is executed."""

    def __init__(self, **types):
        assert types["intermediate_data_type"] == types["compute_data_type"] == "FLOAT"
        self.form = format_of({"HALF": "f16", "BFLOAT16": "bf16"}[types["io_data_type"]])

    def tensor(self, **declared):
        return Tensor(**declared)

    def sdpa(self, **options):
        self.options = options
        self.out = Tensor()
        return self.out, None

    def validate(self): ...
    def build_operation_graph(self): ...
    def create_execution_plans(self, modes): ...
    def check_support(self): ...
    def build_plans(self): ...

    def get_workspace_size(self):
        return 0

    def execute(self, pack, workspace, handle):
        options = self.options
        q, k, v = (self._read(options[name], pack) for name in "qkv")
        out = self.out.at(pack[self.out])
        if "paged_attention_k_table" in options:
            k, v = (
                self._gathered(part, options[f"paged_attention_{name}_table"], pack)
                for name, part in (("k", k), ("v", v))
            )
            keys = options["seq_len_kv"].at(pack[options["seq_len_kv"]])[:, 0, 0, 0]
            assert (keys <= options["paged_attention_max_seq_len_kv"]).all()
        else:
            keys = [k.shape[2]] * len(q)
        for i, n in enumerate(keys):
            mask = np.ones((q.shape[2], n), bool)
            if options.get("use_causal_mask_bottom_right"):
                mask = np.tri(q.shape[2], n, n - q.shape[2], dtype=bool)
            rows = (part[i, :, :n].transpose(1, 0, 2) for part in (k, v))
            found = attention(np, q[i].transpose(1, 0, 2), *rows, mask, options["attn_scale"])
            coded = self.form.encode(np, found.astype(np.float32)).view(np.uint16)
            out[i] = coded.transpose(1, 0, 2)

    def _read(self, tensor, pack):
        bits = np.ascontiguousarray(tensor.at(pack[tensor]))
        return self.form.decode(np, bits.view(self.form.dtype))

    def _gathered(self, blocks, table, pack):
        entries = table.at(pack[table])[:, 0, :, 0]
        return np.stack(
            [np.concatenate(list(blocks[own]), axis=1) for own in entries]
        )  # (sequence, head, cell, element)


STAND_IN = SimpleNamespace(
    data_type=SimpleNamespace(HALF="HALF", BFLOAT16="BFLOAT16", FLOAT="FLOAT", INT32="INT32"),
    heur_mode=SimpleNamespace(A="A"),
    pygraph=lambda *, handle, **types: Graph(**types),
    create_handle=lambda: "handle",
    set_stream=lambda *, handle, stream: None,
)


@pytest.fixture(params=["emulated", pytest.param("cupy", marks=pytest.mark.gpu)])
def fused(request, monkeypatch):
    """On the CPU by the stand-in, on a GPU by cuDNN."""
    try:
        backend = backend_of(request.param)
        if request.param == "emulated":
            monkeypatch.setattr(cudnn_attention, "cudnn_or_refusal", lambda: STAND_IN)
        return CudnnAttention(backend)
    except InputError as missing:
        pytest.skip(str(missing))


def filled(fused, kind):
    store = store_of(fused._backend, CELLS, ROW, kind, kind, layers=2)
    rng = np.random.default_rng(1)
    for layer in range(2):
        rows = (rng.normal(size=(CELLS, 2, 32)).astype(np.float32) for _ in range(2))
        store.write(layer, np.arange(CELLS), *rows)
    return store


def expected(fused, store, q, cells, kind):
    """Query by query over its cells, with q as cuDNN gets it."""
    form = format_of(kind)
    q = form.decode(np, form.encode(np, q))
    outs = []
    for asked, own in zip(q, cells, strict=True):
        k, v = (fused._backend.on_host(part) for part in store.read(1, own))
        mask = np.tri(len(asked), len(own), len(own) - len(asked), dtype=bool)
        outs.append(attention(np, asked, k, v, mask, 0.2))
    return np.stack(outs)


def output(fused, out, kind):
    return format_of(kind).decode(np, fused._backend.on_host(out))


CLOSE = {"f16": 3e-3, "bf16": 2e-2}
"""The output is rounded to the type, and softmax weights are before they meet V."""


@pytest.mark.parametrize("kind", ["f16", "bf16"])
@pytest.mark.parametrize(("sequences", "queries", "keys"), [(1, 16, 48), (1, 16, 16), (2, 1, 40)])
def test_rows_are_read_where_they_lie(fused, kind, sequences, queries, keys):
    store = filled(fused, kind)
    q = np.random.default_rng(3).normal(size=(sequences, queries, 8, 32)).astype(np.float32)
    for first in (0, 24):
        work, out = fused.over_cells(store, 1, q, first, keys, 0.2)
        work()
        cells = [np.arange(first + i * keys, first + (i + 1) * keys) for i in range(sequences)]
        difference = output(fused, out, kind) - expected(fused, store, q, cells, kind)
        assert np.abs(difference).max() < CLOSE[kind]
    assert len(fused._plans) == 1


@pytest.mark.parametrize("kind", ["f16", "bf16"])
@pytest.mark.parametrize(("queries", "keys"), [(16, 48), (8, 41), (1, 33)])
def test_blocks_are_found_through_a_table(fused, kind, queries, keys):
    store = filled(fused, kind)
    q = np.random.default_rng(3).normal(size=(1, queries, 8, 32)).astype(np.float32)
    table = np.array([[5, 0, 7]], np.int32)
    work, out = fused.through_table(store, 1, q, fused._backend.on_device(table), 16, keys, 0.2)
    work()
    cells = (table[..., None] * 16 + np.arange(16)).reshape(1, -1)[:, :keys]
    difference = output(fused, out, kind) - expected(fused, store, q, cells, kind)
    assert np.abs(difference).max() < CLOSE[kind]


def test_what_it_cannot_read_is_refused(fused):
    q = np.zeros((1, 4, 8, 32), np.float32)
    for kinds, transposed in (
        (("q8_0", "q8_0"), False),
        (("f16", "bf16"), False),
        (("f16",) * 2, True),
    ):
        store = store_of(fused._backend, CELLS, ROW, *kinds, v_transposed=transposed)
        with pytest.raises(InputError, match="cuDNN: expected K and V alike"):
            fused.over_cells(store, 0, q, 0, 16, 0.2)


PROBLEMS = [
    Problem(kind, heads, 8, dim, sequences, queries, keys, 0.1, block, 1024 if block else 0)
    for kind, heads, dim in (("bf16", 32, 128), ("f16", 16, 256))
    for sequences, queries, keys in ((1, 512, 4096), (1, 128, 128), (64, 1, 8192))
    for block in (0, 16)
]


@pytest.mark.parametrize("problem", PROBLEMS)
def test_cudnn_takes_the_graph(problem):
    """Validation and lowering, which is as far as cuDNN goes without a GPU."""
    try:
        cudnn = cudnn_or_refusal()
    except InputError as missing:
        pytest.skip(str(missing))
    graph, tensors = graph_of(cudnn, problem)
    graph.validate()
    graph.build_operation_graph()
    assert len(tensors) == (8 if problem.block else 4)


def test_what_is_missing_is_said_in_one_line():
    try:
        cudnn_or_refusal()
    except InputError as missing:
        assert str(missing).startswith("cuDNN: ") and "\n" not in str(missing)
        assert "kvlab[cudnn]" in str(missing)
    else:
        try:
            CudnnAttention(backend_of("emulated"))
        except InputError as missing:
            assert str(missing).startswith(("cuDNN: no handle", "backend 'emulated'"))
