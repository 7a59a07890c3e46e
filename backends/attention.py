"""Attention over rows of a store, as a layout finds them."""

from __future__ import annotations

from typing import Any

import numpy as np

from backends.arrays import Array, Backend
from backends.decode import DecodeBatch, decode, has_kernel_for
from backends.layouts import Reading
from backends.softmax import attention
from backends.store import KVStore


def attend(
    store: KVStore, layer: int, q: Array, reading: Reading, scale: float, sinks: Array | None = None
) -> Array:
    """Attention of some queries over what their layout makes them read, dead cells included.

    One query alone goes through the decode kernel where that can read the store.
    """
    backend = store.backend
    queries = backend.on_device(q)
    if len(queries) == 1 and has_kernel_for(store):
        return decode(store, layer, queries, _batch_of(backend, reading), scale, sinks)
    index = reading.index
    k, v = store.read(layer, index if isinstance(index, slice) else backend.on_device(index))
    mask = backend.on_device(reading.mask)
    return attention(backend.xp, queries, k, v, mask, scale, sinks)


def _batch_of(backend: Backend, reading: Reading) -> DecodeBatch:
    """The reading of one query as the kernel wants it."""
    n = reading.mask.shape[1]
    where: Any
    if isinstance(reading.index, slice):
        layout, where, block = "RANGE", [reading.index.start], 1
    elif reading.table is not None:
        layout, where, block = "TABLE", reading.table, reading.block_size
    else:
        layout, where, block = "TABLE", reading.index, 1

    def ints(values: Any) -> Array:
        return backend.on_device(np.atleast_2d(np.asarray(values, np.int32)))

    mask = backend.on_device(reading.mask.astype(np.uint8))
    return DecodeBatch(layout, ints(where), ints(0)[0], ints(n)[0], n, n, mask, block)
