"""Attention over made-up batches in every layout, fragmented and skewed."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.arrays import Array, Backend
from backends.calibrate.plan import BLOCK
from backends.calibrate.point import Point
from backends.calibrate.timing import Work
from backends.cudnn_attention import CudnnAttention, takes
from backends.decode import DecodeBatch, decode
from backends.shape import GroupShape
from backends.softmax import attention
from backends.store import KVStore
from sim.timing import terms
from sim.timing.terms import Terms

Ints = NDArray[np.int32]
Bench = tuple[list[Work], Terms]
VARIANTS = 4
QUERY_TILE = 512
"""Queries of a prefill that are scored at once; bounds the memory that the scores take."""


class AttentionBenches:
    """Benches of decode and prefill attention over one layer of a store of ``cells`` cells.

    matrix_type: of the products of a prefill, which are the array module's. fused: does prefills
    instead, where it takes the store's type.
    """

    def __init__(
        self,
        backend: Backend,
        shape: GroupShape,
        cells: int,
        store: Callable[[str], KVStore],
        matrix_type: str,
        fused: CudnnAttention | None = None,
    ) -> None:
        self._backend = backend
        self._shape = shape
        self._cells = cells
        self._store = store
        self._matrix_type = matrix_type
        self._fused = fused
        self._flops = 2 * shape.heads * (shape.row.k_dim + shape.row.v_dim)

    def decode(self, point: Point) -> Bench:
        """One query for each sequence of a batch."""
        return self._decode(
            _type_of(point), int(point["batch"]), int(point["length"]), point["layout"]
        )

    def _decode(self, kind: str, batch: int, length: int, layout: str) -> Bench:
        store = self._store(kind)
        lengths = np.full(batch, length, dtype=np.int32)
        if layout == "skewed":
            lengths[1:] = max(1, batch * length // (2 * (batch - 1)))
            lengths[0] = batch * length - lengths[1:].sum()
        q = self._queries(batch)
        batches = [self._batch(lengths, layout, variant) for variant in range(VARIANTS)]
        works: list[Work] = [
            partial(decode, store, 0, q, each, self._shape.scale) for each in batches
        ]
        read = int(lengths.sum()) * (batch if layout == "together" else 1)
        gathers = int((-(-lengths // BLOCK)).sum()) if batches[0].layout == "TABLE" else 0
        longest = int(lengths.sum() if layout == "together" else lengths.max())
        return works, terms.decode_terms(
            read, read, batch, gathers, longest, store.row_bytes, self._flops
        )

    def _queries(self, n: int) -> Array:
        shape = self._shape
        made = np.random.default_rng(1).normal(size=(n, shape.heads, shape.row.k_dim))
        return self._backend.on_device(made.astype(np.float32))

    def _batch(self, lengths: Ints, layout: str, variant: int) -> DecodeBatch:
        """Sequences side by side, begun elsewhere in the store for each variant."""
        sizes = -(-lengths // BLOCK) * BLOCK
        room = self._cells - int(sizes.sum())
        base = variant * (room // VARIANTS) // BLOCK * BLOCK
        starts = (base + np.cumsum(sizes) - sizes).astype(np.int32)
        none = np.zeros(len(lengths), dtype=np.int32)
        n, total = int(lengths.max()), int(lengths.sum())
        if layout == "together":
            owners = np.repeat(np.arange(len(lengths)), lengths)
            np.random.default_rng(variant).shuffle(owners)
            mask = (owners == np.arange(len(lengths))[:, None]).astype(np.uint8)
            where = np.full((len(lengths), 1), base, dtype=np.int32)
            ends = np.full(len(lengths), total, dtype=np.int32)
            return self._on_device("RANGE", where, none, ends, total, total * len(lengths), mask)
        if layout in ("table", "shuffled"):
            table: NDArray[Any] = starts[:, None] // BLOCK + np.arange(-(-n // BLOCK))
            if layout == "shuffled":
                blocks = np.random.default_rng(variant).permutation(self._cells // BLOCK)
                table = blocks[: table.size].reshape(table.shape)
            where = table.astype(np.int32)
            return self._on_device("TABLE", where, none, lengths, n, total, None, BLOCK)
        return self._on_device("RANGE", starts[:, None], none, lengths, n, total)

    def _on_device(
        self,
        layout: str,
        where: Ints,
        first: Ints,
        end: Ints,
        longest: int,
        total: int,
        mask: Any = None,
        block: int = 1,
    ) -> DecodeBatch:
        put = self._backend.on_device
        masked = None if mask is None else put(mask)
        reach = put(where), put(first), put(end)
        return DecodeBatch(layout, *reach, longest, total, masked, block)

    def prefill(self, point: Point) -> Bench:
        """A chunk of queries of one sequence over its prefix and itself."""
        return self._prefill(_type_of(point), int(point["chunk"]), int(point["prefix"]))

    def _prefill(self, kind: str, chunk: int, prefix: int) -> Bench:
        store, total = self._store(kind), prefix + chunk
        room = self._cells - total
        q = self._queries(chunk)
        starts = [variant * (room // VARIANTS) for variant in range(VARIANTS)]
        if self._fused is not None and takes(store):
            over, scale = self._fused.over_cells, self._shape.scale
            works = [over(store, 0, q[None], base, total, scale)[0] for base in starts]
        else:
            works = [partial(self._chunk, store, q, slice(i, i + total), prefix) for i in starts]
        pairs = chunk * prefix + chunk * (chunk + 1) // 2
        return works, terms.prefill_terms(total, pairs, chunk, store.row_bytes, self._flops)

    def _chunk(self, store: KVStore, q: Array, cells: slice, prefix: int) -> None:
        xp = self._backend.xp
        k, v = (part.astype(self._matrix_type, copy=False) for part in store.read(0, cells))
        for first in range(0, len(q), QUERY_TILE):
            tile = q[first : first + QUERY_TILE].astype(self._matrix_type, copy=False)
            end = prefix + first + len(tile)
            mask = xp.arange(end)[None] <= prefix + first + xp.arange(len(tile))[:, None]
            attention(xp, tile, k[:end], v[:end], mask, self._shape.scale)

    def mixed(self, point: Point) -> Bench:
        """A prefill chunk, then decodes; terms of both, with the names of the latter prefixed."""
        kind = _type_of(point)
        prefill, first = self._prefill(kind, int(point["chunk"]), int(point["prefix"]))
        decodes, second = self._decode(kind, int(point["batch"]), int(point["length"]), "table")
        works: list[Work] = [
            partial(_both, one, other) for one, other in zip(prefill, decodes, strict=True)
        ]
        return works, {terms.PREFILL: first, terms.DECODE: second}


def _both(one: Work, other: Work) -> None:
    one()
    other()


def _type_of(point: Point) -> str:
    return point.kernel.partition(" ")[2]
