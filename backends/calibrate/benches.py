"""The work of every kind of point: what is called, on which memory, and its terms.

A bench gives several variants of the same work on different memory; they are timed in turn.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.arrays import Array, Backend
from backends.calibrate.attention_benches import AttentionBenches
from backends.calibrate.plan import Extent
from backends.calibrate.point import Point
from backends.calibrate.timing import Work
from backends.cudnn_attention import CudnnAttention
from backends.kernel_store import store_of
from backends.shape import GroupShape, shape_of
from backends.store import KVStore
from sim.model import ModelSpec
from sim.timing import terms
from sim.timing.terms import Terms
from workloads.errors import InputError

VARIANTS = 4
ROW_TILE = 4096
"""Rows of K and V that are drawn; a store is full of repetitions of them."""
WEIGHT_TILE = 256
"""Rows of a weight matrix that are drawn; the rest repeats them."""
Bench = tuple[list[Work], Terms]


class Benches:
    """Benches for one model on one backend. Memory is made when a point first needs it.

    element_bytes: of the elements of matrix products.
    """

    def __init__(
        self,
        backend: Backend,
        model: ModelSpec,
        extent: Extent,
        fused: CudnnAttention | None = None,
    ) -> None:
        """Raises `InputError` for models whose attention layers differ in more than the window."""
        self.backend = backend
        self.xp = backend.xp
        self.extent = extent
        self.shape = common_shape_of(model)
        self.matrix_type = backend.matrix_type
        self.element_bytes = np.dtype(self.matrix_type).itemsize
        self._rng = np.random.default_rng(0)
        self._stores: dict[str, KVStore] = {}
        self._weights: tuple[tuple[int, int], Array] | None = None
        self._attention = AttentionBenches(
            backend, self.shape, extent.cells, self.store, self.matrix_type, fused
        )

    def of(self, point: Point) -> Bench:
        """The variants and the terms of a point."""
        kind = point.kernel.partition(" ")[0]
        makers: dict[str, Callable[[Point], Bench]] = {
            terms.MEMCPY: self._memcpy,
            terms.MATMUL: self._matmul,
            terms.LAUNCH: self._launch,
            terms.GEMM: self._gemm,
            terms.WRITE: self._write,
            terms.SHIFT: self._shift,
            terms.COPY: self._copy,
            terms.SWAP_OUT: self._swap_out,
            terms.SWAP_IN: self._swap_in,
            terms.DECODE: self._attention.decode,
            terms.PREFILL: self._attention.prefill,
            terms.MIXED: self._attention.mixed,
        }
        return makers[kind](point)

    def store(self, kind: str) -> KVStore:
        """The store of a type, full of random rows; only the latest is kept."""
        if kind not in self._stores:
            self._stores.clear()
            row = self.shape.row
            made = self._stores[kind] = store_of(self.backend, self.extent.cells, row, kind, kind)
            rows = self._random_rows(min(ROW_TILE, self.extent.cells))
            for first in range(0, self.extent.cells, ROW_TILE):
                cells = np.arange(first, min(first + ROW_TILE, self.extent.cells))
                made.write(0, cells, *(part[: len(cells)] for part in rows))
        return self._stores[kind]

    def _random_rows(self, n: int) -> tuple[Array, Array]:
        row = self.shape.row
        return self._random(n, row.kv_heads, row.k_dim), self._random(n, row.kv_heads, row.v_dim)

    def _random(self, *sizes: int, dtype: str = "float32") -> Array:
        made = self._rng.standard_normal(sizes, dtype=np.float32)
        return self.backend.on_device(made).astype(dtype)

    # The ceilings.

    def _memcpy(self, point: Point) -> Bench:
        n = int(point["bytes"])
        pairs = [(self.xp.ones(n, np.uint8), self.xp.ones(n, np.uint8)) for _ in range(2)]
        return [partial(self.xp.copyto, one, other) for one, other in pairs], {"bytes": 2 * n}

    def _matmul(self, point: Point) -> Bench:
        n = int(point["side"])
        a, b = (self._random(n, n, dtype=self.matrix_type) for _ in range(2))
        return [partial(self.xp.matmul, a, b)], {"flops": 2 * n**3}

    def _launch(self, point: Point) -> Bench:
        n, one = int(point["launches"]), self.xp.zeros(1, np.float32)

        def work() -> None:
            for _ in range(n):
                self.xp.add(one, one, out=one)

        return [work], {"launches": n}

    def _gemm(self, point: Point) -> Bench:
        tokens, k, n = (int(point[name]) for name in ("tokens", "inputs", "outputs"))
        if self._weights is None or self._weights[0] != (k, n):
            # All of it random: GPUs multiply predictable numbers faster, since they draw less
            # power (H. He, "Strangely, Matrix Multiplications on GPUs Run Faster When Given
            # 'Predictable' Data!", 2024). A tile is enough, and the host makes it in no time.
            tile = self._random(min(k, WEIGHT_TILE), n, dtype=self.matrix_type)
            self._weights = (k, n), self.xp.concatenate([tile] * -(-k // len(tile)))[:k]
        x = self._random(tokens, k, dtype=self.matrix_type)
        work = partial(self.xp.matmul, x, self._weights[1])
        return [work], terms.gemm_terms(tokens, k, n, self.element_bytes)

    # Rows of one layer.

    def _places(self, n: int, run: int = 1) -> list[Any]:
        """Cells of every variant, in runs of neighbours that lie apart from one another."""
        made = []
        for variant in range(VARIANTS):
            runs = _shuffled(self.extent.cells // run, variant)[: n // run]
            made.append((runs[:, None] * run + np.arange(run)).ravel())
        return made

    def _write(self, point: Point) -> Bench:
        n = int(point["rows"])
        store, rows = self.store(point["kv_type"]), self._random_rows(n)
        places = map(store.on_device, self._places(n))
        works: list[Work] = [partial(store.write, 0, cells, *rows) for cells in places]
        return works, {"bytes": n * store.row_bytes}

    def _shift(self, point: Point) -> Bench:
        n = int(point["rows"])
        store, deltas = self.store(point["kv_type"]), np.full(n, -7)
        works: list[Work] = [store.shifting(cells, deltas) for cells in self._places(n)]
        return works, {"bytes": 2 * n * store.k.nbytes // store.cells}

    def _copy(self, point: Point) -> Bench:
        n, run = int(point["rows"]), int(point["run"])
        store = self.store(point["kv_type"])
        n = min(n, self.extent.cells // 2)
        places = [np.split(cells, 2) for cells in self._places(2 * n, run)]
        works: list[Work] = [store.copying(src, dst) for src, dst in places]
        return works, {"bytes": 2 * n * store.row_bytes, "runs": n // run}

    def _swap_out(self, point: Point) -> Bench:
        n, run = int(point["rows"]), int(point["run"])
        store = self.store(point["kv_type"])
        places = map(store.on_device, self._places(n, run))
        works: list[Work] = [partial(store.swap_out, cells) for cells in places]
        return works, {"bytes": n * store.row_bytes, "runs": n // run}

    def _swap_in(self, point: Point) -> Bench:
        n, run = int(point["rows"]), int(point["run"])
        store = self.store(point["kv_type"])
        places = [store.on_device(cells) for cells in self._places(n, run)]
        host, all_of_it = store.swap_out(places[0]), store.on_device(np.arange(n))
        works: list[Work] = [partial(store.swap_in, host, cells, all_of_it) for cells in places]
        return works, {"bytes": n * store.row_bytes, "runs": n // run}


@cache
def _shuffled(n: int, seed: int) -> NDArray[np.int64]:
    """The numbers below ``n`` in any order; kept, since many points ask for the same."""
    order: NDArray[np.int64] = np.random.default_rng(seed).permutation(n)
    order.flags.writeable = False
    return order


def common_shape_of(model: ModelSpec) -> GroupShape:
    """The shape of all attention layers; `InputError` where they differ in more than the window."""
    shapes = [shape_of(group, model) for group in model.groups()]
    if any((each.row, each.heads) != (shapes[0].row, shapes[0].heads) for each in shapes):
        raise InputError(f"{model.name}: attention layers of different shapes cannot be calibrated")
    return shapes[0]
