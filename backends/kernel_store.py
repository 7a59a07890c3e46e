"""A store whose rows are moved by the CUDA kernels."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.arrays import Array, Backend
from backends.formats.base import Format
from backends.kernels import TYPES
from backends.runs import overlap, runs_of
from backends.store import Cells, Index, KVStore, Work
from workloads.errors import InputError

THREADS = 256
PIECE = 8
"""Elements that one thread reads of a row; see ``numbers.cuh``."""

VECTORS = ((16, "uint4"), (8, "uint2"), (4, "word"), (2, "half_word"))
VECTORS_PER_THREAD = 4
"""Vectors that a thread of ``copy_runs`` has under way at once."""


class KernelStore(KVStore):
    """`KVStore`, with kernels of our own for rows written, read by cell, copied and turned.

    Heads are whole pieces of 8 elements. Transposed V, and keys whose halves are not whole
    quantised blocks, are left to the array module, which does the same to them in more passes.
    """

    def reset(self, cells: int) -> None:
        """Become a store of ``cells`` cells, all zero; `InputError` for heads of odd sizes."""
        for what, elements in (("K", self.row.k_dim), ("V", self.row.v_dim)):
            if elements % PIECE:
                raise InputError(f"{what}: kernels need heads of a multiple of {PIECE} elements")
        super().reset(cells)

    def on_device(self, cells: Cells) -> Array:
        """As the kernels read them."""
        return self.backend.on_device(cells).astype(np.int32, copy=False)

    def write(self, layer: int, cells: Array, k: Array, v: Array) -> None:
        """One launch for K and one for V."""
        where = self.on_device(cells)
        self._write(self.format_k, self.row.k_dim, self.k[layer], where, k)
        if self.v_transposed:
            xp = self.backend.xp
            stored = self.format_v.encode(xp, self.backend.on_device(v))
            self.v[layer][..., where] = stored.transpose(1, 2, 0)
        else:
            self._write(self.format_v, self.row.v_dim, self.v[layer], where, v)

    def _write(self, form: Format, dim: int, store: Array, cells: Array, rows: Array) -> None:
        rows = self.backend.xp.ascontiguousarray(self.backend.on_device(rows), np.float32)
        per_row = self.row.kv_heads * dim // max(form.block, PIECE)
        self._launch("write_rows", form, dim, per_row, (rows, cells, store), len(cells))

    def read(self, layer: int, index: Index) -> tuple[Array, Array]:
        """Slices as they lie; cells through a kernel that gathers and unpacks them."""
        if isinstance(index, slice) or self.v_transposed:
            return super().read(layer, index)
        cells = self.on_device(index)
        return (
            self._read(self.format_k, self.row.k_dim, self.k[layer], cells),
            self._read(self.format_v, self.row.v_dim, self.v[layer], cells),
        )

    def _read(self, form: Format, dim: int, store: Array, cells: Array) -> Array:
        rows = self.backend.xp.empty((len(cells), self.row.kv_heads, dim), np.float32)
        per_row = self.row.kv_heads * dim // PIECE
        self._launch("read_rows", form, dim, per_row, (rows, cells, store), len(cells))
        return rows

    def _turn(self, cells: Array, turns: Array) -> None:
        """One launch a layer."""
        dim = self.row.k_dim
        unit = max(self.format_k.block, PIECE)
        if dim // 2 % unit:
            super()._turn(cells, turns)
            return
        per_row = self.row.kv_heads * dim // 2 // unit
        for layer in range(self.layers):
            args = (self.k[layer], cells, turns)
            self._launch("turn_rows", self.format_k, dim, per_row, args, len(cells))

    def _launch(
        self, name: str, form: Format, dim: int, per_row: int, arrays: tuple[Any, ...], n: int
    ) -> None:
        if not n:
            return
        kernel = self.backend.kernel("rows.cu", name, {"TYPE": TYPES[form.name], "HEAD_DIM": dim})
        args = (*arrays, np.int32(n), np.int32(self.row.kv_heads))
        kernel((-(-n * per_row // THREADS),), (THREADS,), args)

    def copying(self, src: Cells, dst: Cells) -> Work:
        """Run by run, all layers at once; through a buffer where a cell is read and written."""
        if self.v_transposed:
            return super().copying(src, dst)
        works: list[Work] = []
        if not len(src):
            return partial(_all, works)
        crosses = overlap(src, dst)
        order = np.arange(len(src), dtype=np.int64)
        for store in (self.k, self.v):
            if crosses:
                shape = (self.layers, len(src), *store.shape[2:])
                buffer = self.backend.xp.empty(shape, store.dtype)
                works.append(runs_copier(self.backend, store, buffer, runs_of(src, order)))
                works.append(runs_copier(self.backend, buffer, store, runs_of(order, dst)))
            else:
                works.append(runs_copier(self.backend, store, store, runs_of(src, dst)))
        return partial(_all, works)


def _all(works: list[Work]) -> None:
    for work in works:
        work()


def runs_copier(backend: Backend, source: Array, target: Array, runs: NDArray[np.int32]) -> Work:
    """Copies runs of cells between two stores ``[layer, cell, ...]`` that do not overlap there."""
    row_bytes = int(np.prod(source.shape[2:])) * source.dtype.itemsize
    width, vector = next(each for each in VECTORS if row_bytes % each[0] == 0)
    row = row_bytes // width
    per_block = THREADS * VECTORS_PER_THREAD
    parts = max(1, -(-int(runs[:, 2].max()) * row // per_block))
    planes = (np.int64(source.shape[1] * row), np.int64(target.shape[1] * row))
    kernel = backend.kernel("copies.cu", "copy_runs", {"VECTOR": vector})
    args = (source, target, backend.on_device(runs), np.int32(row), *planes)
    return partial(kernel, (len(runs), min(parts, 65535), source.shape[0]), (THREADS,), args)


def store_of(backend: Backend, *args: Any, **options: Any) -> KVStore:
    """A store on ``backend``, with kernels where it has them; arguments as for `KVStore`."""
    cls = KernelStore if backend.has_kernels else KVStore
    return cls(backend, *args, **options)
