"""Which implementation of prefill attention a calibration measures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from backends.arrays import Backend
from backends.cudnn_attention import KINDS, CudnnAttention
from backends.kernel_store import store_of
from backends.shape import GroupShape
from workloads.errors import InputError
from workloads.registry import suggestion_for

AUTO, MATMUL, CUDNN = PREFILLS = ("auto", "matmul", "cudnn")
"""cuDNN's fused kernel where it can be had, else matrix products and a softmax; or one of them."""
TRIED = 64
"""Tokens of the prompt with which cuDNN is tried."""


def fused_prefill(
    backend: Backend, wanted: str, shape: GroupShape, kinds: Sequence[str]
) -> tuple[CudnnAttention | None, dict[str, str]]:
    """cuDNN's attention, if it is to be measured; and what is measured, by type of K and V.

    Raises `InputError` for an unknown name, and for ``cudnn`` where that cannot be had.
    """
    if wanted not in PREFILLS:
        raise InputError(f"unknown prefill {wanted!r}; {suggestion_for(wanted, PREFILLS)}")
    taken = [kind for kind in kinds if kind in KINDS]
    plain = dict.fromkeys(kinds, MATMUL)
    if wanted == CUDNN and backend.name != "cupy":
        raise InputError(f"prefill {CUDNN!r}: expected backend cupy, not {backend.name}")
    if wanted == CUDNN and not taken:
        raise InputError(f"prefill {CUDNN!r}: expected a KV type of {', '.join(KINDS)}")
    if wanted == MATMUL or backend.name != "cupy" or not taken:
        return None, plain
    try:
        fused = CudnnAttention(backend)
        _try(fused, backend, shape, taken[0])
    except InputError as missing:
        if wanted == CUDNN:
            raise
        return None, dict.fromkeys(kinds, f"{MATMUL} ({missing})")
    return fused, plain | dict.fromkeys(taken, CUDNN)


def _try(fused: CudnnAttention, backend: Backend, shape: GroupShape, kind: str) -> None:
    """A small prompt of this shape; `InputError` where cuDNN does not run it."""
    store = store_of(backend, TRIED, shape.row, kind, kind)
    q = backend.on_device(np.zeros((1, TRIED, shape.heads, shape.row.k_dim), np.float32))
    work, _ = fused.over_cells(store, 0, q, 0, TRIED, shape.scale)
    try:
        work()
        backend.synchronize()
    except Exception as error:  # cuDNN's own, of no common type
        raise InputError(f"cuDNN: {str(error).partition(chr(10))[0]}") from None
