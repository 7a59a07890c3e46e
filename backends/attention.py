"""Attention over rows of a store, in single precision, on either backend."""

from __future__ import annotations

from typing import Any

import numpy as np

from backends.arrays import Array, Backend
from backends.decode import DecodeBatch, decode
from backends.layouts import Reading
from backends.store import KVStore


def attention(
    xp: Any, q: Array, k: Array, v: Array, mask: Array, scale: float, sinks: Array | None = None
) -> Array:
    """Softmax attention with grouped heads; shape (queries, heads, v element).

    q: (queries, heads, element). k, v: (rows, kv_heads, element). mask: (queries, rows), True
    where a query sees a row. sinks: a score a head that takes its share of the softmax and gives
    nothing, as trained into gpt-oss. A query that sees nothing gets zeros.
    """
    n, heads, _ = q.shape
    kv_heads = k.shape[1]
    grouped = q.reshape(n, kv_heads, heads // kv_heads, -1).transpose(1, 2, 0, 3)
    scores = xp.matmul(grouped, k.transpose(1, 2, 0)[:, None]) * scale
    scores = xp.where(mask, scores, -xp.inf)
    largest = xp.max(scores, axis=-1, keepdims=True, initial=-xp.inf)
    if sinks is not None:
        sink = sinks.reshape(kv_heads, -1, 1, 1)
        largest = xp.maximum(largest, sink)
    largest = xp.where(largest == -xp.inf, 0, largest)
    weights = xp.exp(scores - largest)
    total = weights.sum(axis=-1, keepdims=True)
    if sinks is not None:
        total = total + xp.exp(sink - largest)
    out = xp.matmul(weights, v.transpose(1, 0, 2)[:, None]) / xp.where(total == 0, 1, total)
    return out.transpose(2, 0, 1, 3).reshape(n, heads, -1)


def attend(
    store: KVStore, layer: int, q: Array, reading: Reading, scale: float, sinks: Array | None = None
) -> Array:
    """Attention of some queries over what their layout makes them read, dead cells included.

    One query alone goes through the decode kernel where the backend has it.
    """
    backend = store.backend
    queries = backend.on_device(q)
    if backend.has_kernels and len(queries) == 1:
        return decode(store, layer, queries, _batch_of(backend, reading), scale, sinks)
    index = reading.index
    k, v = store.read(layer, index if isinstance(index, slice) else backend.on_device(index))
    mask = backend.on_device(reading.mask)
    return attention(backend.xp, queries, k, v, mask, scale, sinks)


def _batch_of(backend: Backend, reading: Reading) -> DecodeBatch:
    """The reading of one query as the kernel wants it."""
    n = reading.mask.shape[1]
    if isinstance(reading.index, slice):
        layout, where, block = "RANGE", [reading.index.start], 1
    elif reading.table is not None:
        layout, where, block = "TABLE", reading.table, reading.block_size
    else:
        layout, where, block = "TABLE", reading.index, 1

    def ints(values: Any) -> Array:
        return backend.on_device(np.atleast_2d(np.asarray(values, np.int32)))

    mask = backend.on_device(reading.mask.astype(np.uint8))
    return DecodeBatch(layout, ints(where), ints(0)[0], ints(n)[0], n, mask, block)
