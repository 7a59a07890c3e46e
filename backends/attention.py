"""Attention over rows of a store, as a layout finds them."""

from __future__ import annotations

from typing import Any

import numpy as np

from backends.arrays import Array, Backend
from backends.decode import DecodeBatch, decode, has_kernel_for
from backends.layouts import Reading
from backends.softmax import attention
from backends.store import KVStore

MOST_QUERIES = 16
"""Queries above which a reading is a matter of matrix products."""


def attend(
    store: KVStore, layer: int, q: Array, reading: Reading, scale: float, sinks: Array | None = None
) -> Array:
    """Attention of some queries over what their layout makes them read, dead cells included.

    A few queries go through the decode kernel, each as a sequence of its own, where that can read
    the store.
    """
    backend = store.backend
    queries = backend.on_device(q)
    if len(queries) <= MOST_QUERIES and has_kernel_for(store):
        return decode(store, layer, queries, _batch_of(backend, reading), scale, sinks)
    index = reading.index
    k, v = store.read(layer, index if isinstance(index, slice) else backend.on_device(index))
    mask = backend.on_device(reading.mask)
    return attention(backend.xp, queries, k, v, mask, scale, sinks)


def _batch_of(backend: Backend, reading: Reading) -> DecodeBatch:
    """The reading as the kernel wants it: every query reads all, and counts what its mask says."""
    queries, n = reading.mask.shape
    where: Any
    if isinstance(reading.index, slice):
        layout, where, block = "RANGE", [reading.index.start], 1
    elif reading.table is not None:
        layout, where, block = "TABLE", reading.table, reading.block_size
    else:
        layout, where, block = "TABLE", reading.index, 1

    def ints(values: Any) -> Array:
        return backend.on_device(np.repeat(np.asarray(values, np.int32)[None], queries, axis=0))

    mask = backend.on_device(reading.mask.astype(np.uint8))
    return DecodeBatch(layout, ints(where), ints(0), ints(n), n, queries * n, mask, block)
