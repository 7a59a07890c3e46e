"""Attention over rows of a store, in single precision, on either backend."""

from __future__ import annotations

from typing import Any

from backends.arrays import Array
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
    """Attention of some queries over what their layout makes them read, dead cells included."""
    backend = store.backend
    index = reading.index
    k, v = store.read(layer, index if isinstance(index, slice) else backend.on_device(index))
    mask = backend.on_device(reading.mask)
    queries = backend.on_device(q)
    return attention(backend.xp, queries, k, v, mask, scale, sinks)
