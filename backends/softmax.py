"""Softmax attention over rows that are there as arrays, in their precision, on any backend."""

from __future__ import annotations

from typing import Any

from backends.arrays import Array


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
    if not len(k):
        return xp.zeros((n, heads, v.shape[-1]), q.dtype)
    grouped = q.reshape(n, kv_heads, heads // kv_heads, -1).transpose(1, 2, 0, 3)
    scores = xp.matmul(grouped, k.transpose(1, 2, 0)[:, None]) * scale
    scores = xp.where(mask, scores, -xp.inf)
    largest = scores.max(axis=-1, keepdims=True)
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
