"""Decode attention over a batch: one query a sequence, any layout, any length."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from backends.arrays import Array
from backends.kernels import TYPES
from backends.softmax import attention
from backends.store import KVStore
from workloads.errors import InputError

LOG2_E = math.log2(math.e)
MOST_HEADS = 4
"""Query heads of a block; more would not fit into the registers."""
HEAD_DIMS = (32, 64, 128, 256)
"""Sizes of heads that the kernel was written for."""
RESIDENT = 4
"""Blocks of the kernel that a multiprocessor holds at once (of half-precision types)."""
SHORTEST_SPLIT = 256
"""Items below which a split costs more than it brings."""
SPLIT_START = 32
"""Items that a split could read while it starts and hands its share to the merge."""
SPLIT_STEP = 32
"""Items of a split come in steps of this: whole tiles for the usual heads of 128."""


@dataclass(frozen=True)
class DecodeBatch:
    """Where the sequences of a batch find their cells; see ``kernels/decode.cu``.

    layout: RANGE, TABLE or RING. where: int32 (batch, n): the first cell of a range or ring, or
    block tables. first, end: int32 (batch,), the items that each reads. longest: the most items of
    one; total: of all of them. mask: uint8 (batch, items) or None. block: cells of a block. ring:
    cells of a ring. splits: of the longest, 0 for as many as `splits_of` says.
    """

    layout: str
    where: Array
    first: Array
    end: Array
    longest: int
    total: int
    mask: Array | None = None
    block: int = 1
    ring: int = 1
    splits: int = 0


def decode(
    store: KVStore,
    layer: int,
    q: Array,
    batch: DecodeBatch,
    scale: float,
    sinks: Array | None = None,
) -> Array:
    """Attention of ``q`` (batch, heads, element; f32 on the device); the same shape.

    By the kernel, or sequence by sequence where the backend has none.
    """
    run = _by_kernel if store.backend.has_kernels else _by_sequence
    return run(store, layer, q, batch, scale, sinks)


def has_kernel_for(store: KVStore) -> bool:
    """Whether the backend has a decode kernel that reads rows of this store."""
    row = store.row
    alike = row.v_dim == row.k_dim in HEAD_DIMS and not store.v_transposed
    return store.backend.has_kernels and alike


def _by_sequence(
    store: KVStore, layer: int, q: Array, batch: DecodeBatch, scale: float, sinks: Array | None
) -> Array:
    out = []
    for i, (first, end) in enumerate(zip(batch.first.tolist(), batch.end.tolist(), strict=True)):
        k, v = store.read(layer, _index_of(batch, i, first, end))
        mask = np.ones((1, end - first), bool)
        if batch.mask is not None:
            mask = batch.mask[i : i + 1, first:end] != 0
        out.append(attention(np, q[i : i + 1], k, v, mask, scale, sinks))
    return np.concatenate(out)


def _index_of(batch: DecodeBatch, i: int, first: int, end: int) -> Any:
    """The cells that sequence ``i`` of the batch reads."""
    where = batch.where[i]
    if batch.layout == "RANGE":
        return slice(int(where[0]) + first, int(where[0]) + end)
    items = np.arange(first, end)
    if batch.layout == "RING":
        return where[0] + items % batch.ring
    return where[items // batch.block] * batch.block + items % batch.block


def _by_kernel(
    store: KVStore, layer: int, q: Array, batch: DecodeBatch, scale: float, sinks: Array | None
) -> Array:
    """Two launches: splits, then their sum.

    Raises `InputError` for a store that the kernel cannot read: V transposed or of another head
    size than K, or heads of a size that it was not written for.
    """
    dim, heads = store.row.k_dim, q.shape[1]
    if not has_kernel_for(store):
        raise InputError(
            "decode kernel: expected K and V alike, not transposed, with heads of"
            f" {', '.join(map(str, HEAD_DIMS))} elements, not {store.row}"
        )
    backend = store.backend
    xp = backend.xp
    per_block = math.gcd(heads // store.row.kv_heads, MOST_HEADS)
    groups = heads // per_block
    places = RESIDENT * backend.processors
    splits, chunk = splits_of(batch.longest, batch.total, groups, places, batch.splits)
    defines = {
        "K_TYPE": TYPES[store.format_k.name],
        "V_TYPE": TYPES[store.format_v.name],
        "HEAD_DIM": dim,
        "HEADS": per_block,
        "LAYOUT": batch.layout,
        "BLOCK": batch.block,
    }
    part = xp.empty((len(q), heads, splits, dim), np.float32)
    sums = xp.empty((len(q), heads, splits, 2), np.float32)
    out = xp.empty((len(q), heads, dim), np.float32)
    nothing = np.uintp(0)
    args: tuple[Any, ...] = (
        *(xp.ascontiguousarray(q, np.float32), store.k[layer], store.v[layer]),
        *(batch.where, batch.first, batch.end),
        nothing if batch.mask is None else batch.mask,
        np.int32(batch.where.shape[1]),
        np.int32(0 if batch.mask is None else batch.mask.shape[1]),
        *(np.int32(batch.ring), np.int32(store.row.kv_heads), np.int32(chunk)),
        *(np.float32(scale * LOG2_E), part, sums),
    )
    backend.kernel("decode.cu", "decode", defines)((splits, groups, len(q)), (128,), args)
    score = nothing if sinks is None else xp.asarray(sinks * LOG2_E, np.float32)
    combine = backend.kernel("decode.cu", "combine", defines)
    combine((heads, len(q)), (dim,), (part, sums, score, out, np.int32(splits)))
    return out


@cache
def splits_of(
    longest: int, total: int, groups: int, places: int, given: int = 0
) -> tuple[int, int]:
    """(splits of the longest sequence, items of each) for which the last block ends first.

    longest, total: items of the longest sequence and of all; groups: blocks that read the same
    items for other heads; places: blocks that run at once. Blocks of ``chunk`` items run in rounds.
    given: the number of splits, about, where it is not to be chosen.
    """
    if longest <= 0:
        return 1, 1
    wanted = np.arange(1, max(1, longest // SHORTEST_SPLIT) + 1)
    if given:
        wanted = np.array([given])
    chunks = -(-longest // wanted)
    rounds = np.maximum(1, np.ceil(groups * total / chunks / places))
    chunk = int(chunks[(rounds * (chunks + SPLIT_START)).argmin()])
    chunk = -(-chunk // SPLIT_STEP) * SPLIT_STEP
    return -(-longest // chunk), chunk
