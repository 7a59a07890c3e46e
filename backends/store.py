"""The K/V rows of one cache: written, read, moved, rotated, swapped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from backends.arrays import Array, Backend
from backends.formats import format_of
from backends.formats.base import Format
from backends.rope import rotated, turns_of
from backends.shape import RowShape
from workloads.errors import InputError

Cells = NDArray[np.int64]
Index = Any
"""Cells to look at: an array of them, or a slice."""
Work: TypeAlias = Callable[[], object]
"""Something that is ready to be done, and may be done again."""


@dataclass(frozen=True)
class HostRows:
    """Rows of some cells on the host, as memory held them. Complete after `synchronize`."""

    k: Any
    v: Any

    @property
    def nbytes(self) -> int:
        """Bytes of K and V."""
        return int(self.k.nbytes + self.v.nbytes)


class KVStore:
    """K and V of ``cells`` cells and ``layers`` layers.

    K is ``[layer, cell, kv_head, ...]``, where the rest is what the format makes of a head. V is
    the same or, transposed, ``[layer, kv_head, element, cell]``, as llama.cpp keeps it where it
    runs without flash attention. Everything is zero at first, as it is in llama.cpp: attention
    over a range also multiplies what it has masked.
    """

    def __init__(
        self,
        backend: Backend,
        cells: int,
        row: RowShape,
        type_k: str = "f16",
        type_v: str = "f16",
        *,
        layers: int = 1,
        v_transposed: bool = False,
    ) -> None:
        """Raises `InputError` where a row is not whole blocks, or blocks would be transposed."""
        self.backend = backend
        self.row = row
        self.layers = layers
        self.format_k, self.format_v = format_of(type_k), format_of(type_v)
        self.v_transposed = v_transposed
        _check_blocks("K", self.format_k, row.k_dim)
        _check_blocks("V", self.format_v, row.v_dim)
        if v_transposed and self.format_v.block > 1:
            raise InputError(f"V of type {type_v!r}: blocks cannot be stored transposed")
        self.reset(cells)

    def reset(self, cells: int) -> None:
        """Become a store of ``cells`` cells, all zero."""
        xp, row = self.backend.xp, self.row
        self.cells = cells
        shape_k = (cells, row.kv_heads, *self.format_k.storage_shape(row.k_dim))
        shape_v: tuple[int, ...] = (
            cells,
            row.kv_heads,
            *self.format_v.storage_shape(row.v_dim),
        )
        if self.v_transposed:
            shape_v = (row.kv_heads, row.v_dim, cells)
        self.k = xp.zeros((self.layers, *shape_k), self.format_k.dtype)
        self.v = xp.zeros((self.layers, *shape_v), self.format_v.dtype)

    @property
    def nbytes(self) -> int:
        """Bytes of the whole store."""
        return int(self.k.nbytes + self.v.nbytes)

    @property
    def row_bytes(self) -> int:
        """Bytes of K and V of one cell in one layer."""
        return self.nbytes // (self.layers * self.cells)

    def on_device(self, cells: Cells) -> Array:
        """``cells`` as operations use them; given to them like that, they are not sent again."""
        return self.backend.on_device(cells)

    # Rows in and out.

    def write(self, layer: int, cells: Array, k: Array, v: Array) -> None:
        """Quantise rows of f32 (n, kv_head, element) and put them into ``cells``."""
        backend = self.backend
        cells = self.on_device(cells)
        self.k[layer, cells] = self.format_k.encode(backend.xp, backend.on_device(k))
        stored = self.format_v.encode(backend.xp, backend.on_device(v))
        if self.v_transposed:
            self.v[layer][..., cells] = stored.transpose(1, 2, 0)
        else:
            self.v[layer, cells] = stored

    def read(self, layer: int, index: Index) -> tuple[Array, Array]:
        """Rows of f32 (n, kv_head, element) of K and of V."""
        xp = self.backend.xp
        if not isinstance(index, slice):
            index = self.on_device(index)
        v = self.v[layer]
        v = v[..., index].transpose(2, 0, 1) if self.v_transposed else v[index]
        return self.format_k.decode(xp, self.k[layer, index]), self.format_v.decode(xp, v)

    # Rows inside the cache.

    def copy(self, src: Cells, dst: Cells) -> None:
        """Let ``dst[i]`` hold what ``src[i]`` held before, in all layers; they may overlap."""
        self.copying(src, dst)()

    def copying(self, src: Cells, dst: Cells) -> Work:
        """`copy` to be called later: all that the host has to do for it is done now."""
        return partial(self._copy, self.on_device(src), self.on_device(dst))

    def _copy(self, src: Array, dst: Array) -> None:
        self.k[:, dst] = self.k[:, src]
        if self.v_transposed:
            self.v[..., dst] = self.v[..., src]
        else:
            self.v[:, dst] = self.v[:, src]

    def shift(self, cells: Cells, deltas: NDArray[np.int64]) -> None:
        """Rotate the keys of ``cells`` by ``deltas`` positions: read, turn, round, write."""
        self.shifting(cells, deltas)()

    def shifting(self, cells: Cells, deltas: NDArray[np.int64]) -> Work:
        """`shift` to be called later, likewise."""
        turns = self.backend.on_device(turns_of(deltas, self.row.k_dim))
        return partial(self._turn, self.on_device(cells), turns)

    def _turn(self, cells: Array, turns: Array) -> None:
        xp = self.backend.xp
        for layer in range(self.layers):
            keys = self.format_k.decode(xp, self.k[layer, cells])
            self.k[layer, cells] = self.format_k.encode(xp, rotated(xp, keys, turns))

    # Rows to the host and back.

    def swap_out(self, cells: Array) -> HostRows:
        """Start to carry ``cells`` to the host: gathered first, then one transfer for K and V."""
        cells = self.on_device(cells)
        rows = (self.k[:, cells], self.v[..., cells] if self.v_transposed else self.v[:, cells])
        buffers = []
        for part in rows:
            buffer = self.backend.host_buffer(part.shape, part.dtype)
            self.backend.to_host(part, buffer)
            buffers.append(buffer)
        return HostRows(*buffers)

    def swap_in(self, rows: HostRows, cells: Array, which: Array) -> None:
        """Put rows ``which`` of those that were swapped out (by their place) into ``cells``.

        Nobody waits: the device carries them after the rows have left and before others ask.
        """
        cells, which = self.on_device(cells), self.on_device(which)
        # Whole and then chosen from, since only a whole buffer is carried without waiting.
        k, v = self.backend.from_host(rows.k), self.backend.from_host(rows.v)
        self.k[:, cells] = k[:, which]
        if self.v_transposed:
            self.v[..., cells] = v[..., which]
        else:
            self.v[:, cells] = v[:, which]


def _check_blocks(what: str, form: Format, elements: int) -> None:
    if elements % form.block:
        raise InputError(
            f"{what} of type {form.name!r} needs heads of a multiple of {form.block} elements,"
            f" not {elements}"
        )
