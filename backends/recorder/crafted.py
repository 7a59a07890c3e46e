"""States that llama.cpp has not written: cells of our choice, or none that can be restored."""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

from backends.recorder.blob import after_architecture

_STREAM_AND_CELLS = 8
_CELL = 12
#: Type and row size before the rows of a layer.
_LAYER = 12


def unrestorable(header: bytes, empty_caches: int, n: int) -> bytes:
    """The state of a sequence with ``n`` cells in one cache, which ends where rows would follow.

    The library searches for cells before it reads rows. With no room for ``n`` it fails there;
    otherwise it fails later and removes again what it has placed. header: as a real state begins.
    empty_caches: caches before the one with cells, none of them with any.
    """
    parts = [header, struct.pack("<ii", 1, 0) * empty_caches, struct.pack("<ii", 1, n)]
    positions = np.arange(n)
    return b"".join([*parts, _cells(positions, np.zeros(n, np.intp))])


def with_cells(
    one: bytes, stream_bytes: int, pos: NDArray[np.intp], seq: NDArray[np.intp]
) -> bytes:
    """A context's state with cells 0, 1, .. at ``pos`` of the sequences ``seq``, int[n] each.

    one: the state of the same context with a single cell of one sequence: a plain cache with one
    stream, V not transposed. Every cell gets its rows. stream_bytes: see `stream_bytes_of`.
    """
    at = after_architecture(one)
    rows = at + _STREAM_AND_CELLS + _CELL
    layers = rows + 8 + stream_bytes
    parts = [one[:at], struct.pack("<ii", 1, pos.size), _cells(pos, seq), one[rows:layers]]
    while layers < len(one):
        (size,) = struct.unpack_from("<Q", one, layers + 4)
        end = layers + _LAYER + size
        parts += [one[layers : layers + _LAYER], one[layers + _LAYER : end] * pos.size]
        layers = end
    return b"".join(parts)


def _cells(pos: NDArray[np.intp], seq: NDArray[np.intp]) -> bytes:
    """Position, number of sequences (1) and sequence of every cell."""
    return np.stack([pos, np.ones_like(pos), seq], axis=1).astype("<i4").tobytes()
