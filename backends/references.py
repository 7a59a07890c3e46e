"""Other people's decode attention on the shape that ours is held against, where it is installed.

PyTorch's ``scaled_dot_product_attention`` and cuDNN's read one contiguous range a sequence,
FlashInfer's reads pages of 16 tokens in order, as vLLM and SGLang call it. All work on the same
(legacy default) stream as CuPy, so the same events time all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np

from backends.arrays import Backend
from backends.calibrate.timing import Effort, Work, timed
from backends.cudnn_attention import CudnnAttention, takes
from backends.shape import GroupShape
from backends.store import KVStore

PAGE = 16
FLASHINFER_WORKSPACE = 128 << 20
"""Bytes, as FlashInfer's documentation advises."""


def reference_seconds(
    backend: Backend, store: KVStore, shape: GroupShape, batch: int, length: int, effort: Effort
) -> dict[str, float | str]:
    """Median seconds of each reference by its name, or in words why there are none."""
    found: dict[str, float | str] = {}
    for name, ready in references_of(backend, store, shape, batch, length):
        try:
            found[name] = timed(backend, [ready()], effort)[0]
        except (
            Exception
        ) as error:  # of no common type; a reference that fails is no failure of ours
            found[name] = str(error).partition("\n")[0] or type(error).__name__
    return found


def references_of(
    backend: Backend, store: KVStore, shape: GroupShape, batch: int, length: int
) -> Iterator[tuple[str, Callable[[], Work]]]:
    """(name, what makes it ready) of all that are installed. Sequences of bf16 rows."""
    if backend.name != "cupy":
        return
    if find_spec("torch") is not None and import_module("torch").cuda.is_available():
        yield "PyTorch", partial(_torch, shape, batch, length)
        if find_spec("flashinfer") is not None:
            yield "FlashInfer", partial(_flashinfer, shape, batch, length)
    if find_spec("cudnn") is not None and takes(store):
        yield "cuDNN", partial(_cudnn, backend, store, shape, batch, length)


def _torch(shape: GroupShape, batch: int, length: int) -> Work:
    torch: Any = import_module("torch")
    row, made = shape.row, partial(torch.randn, device="cuda", dtype=torch.bfloat16)
    q = made(batch, shape.heads, 1, row.k_dim)
    k = made(batch, row.kv_heads, length, row.k_dim)
    v = made(batch, row.kv_heads, length, row.v_dim)
    attention = torch.nn.functional.scaled_dot_product_attention
    return partial(attention, q, k, v, enable_gqa=True)


def _flashinfer(shape: GroupShape, batch: int, length: int) -> Work:
    torch: Any = import_module("torch")
    flashinfer: Any = import_module("flashinfer")
    row, pages = shape.row, -(-length // PAGE)
    made = partial(torch.randn, device="cuda", dtype=torch.bfloat16)
    q = made(batch, shape.heads, row.k_dim)
    cache = made(batch * pages, 2, PAGE, row.kv_heads, row.k_dim)
    workspace = torch.empty(FLASHINFER_WORKSPACE, dtype=torch.uint8, device="cuda")
    wrapper = flashinfer.BatchDecodeWithPagedKVCacheWrapper(workspace, "NHD")
    integers = partial(torch.arange, dtype=torch.int32, device="cuda")
    last = torch.full((batch,), (length - 1) % PAGE + 1, dtype=torch.int32, device="cuda")
    wrapper.plan(
        integers(0, batch * pages + 1, pages),
        integers(batch * pages),
        last,
        shape.heads,
        row.kv_heads,
        row.k_dim,
        PAGE,
        q_data_type=torch.bfloat16,
        kv_data_type=torch.bfloat16,
    )
    return partial(wrapper.run, q, cache)


def _cudnn(backend: Backend, store: KVStore, shape: GroupShape, batch: int, length: int) -> Work:
    """Over the store's own rows, from its first cell on."""
    q = np.random.default_rng(0).normal(size=(batch, 1, shape.heads, shape.row.k_dim))
    asked = backend.on_device(q.astype(np.float32))
    return CudnnAttention(backend).over_cells(store, 0, asked, 0, length, shape.scale)[0]
