"""What K, V and Q hold: numbers that say which token of which sequence they belong to.

Every element is a hash of (seed, layer group, what it is, token identity, element), so a row is
the same whoever computes it, and any other row in its place changes the numbers that come out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from backends.rope import rotated, turns_of
from backends.shape import GroupShape
from sim.sequence import Sequence

Identities = NDArray[np.int64]
"""(tokens, 2): branch and index of each token, see `workloads.request`."""
Rows = NDArray[np.float32]

_GOLDEN = 0x9E3779B97F4A7C15
QUERY_SIZE = 2.0
"""Largest element of a query; keys and values reach 1. Makes scores differ by a few units."""


@dataclass(frozen=True)
class Content:
    """Rows of one layer group. ``group``: its index."""

    shape: GroupShape
    group: int
    seed: int = 0

    def keys(self, tokens: Identities, positions: NDArray[np.int64]) -> Rows:
        """Keys as they are cached: turned to their positions."""
        row = self.shape.row
        plain = self._rows(0, tokens, row.kv_heads, row.k_dim)
        return _turned(plain, positions)

    def values(self, tokens: Identities) -> Rows:
        """Values; they do not depend on the position."""
        row = self.shape.row
        return self._rows(1, tokens, row.kv_heads, row.v_dim)

    def queries(self, tokens: Identities, positions: NDArray[np.int64]) -> Rows:
        """Queries of all query heads, turned to their positions."""
        plain = self._rows(2, tokens, self.shape.heads, self.shape.row.k_dim)
        return _turned(plain * np.float32(QUERY_SIZE), positions)

    def _rows(self, what: int, tokens: Identities, heads: int, dim: int) -> Rows:
        start = _mixed(np.uint64((self.seed << 8) + self.group * 4 + what + 1))
        token = _mixed(start ^ _mixed(tokens[:, 0].astype(np.uint64)))
        token = _mixed(token + tokens[:, 1].astype(np.uint64) * np.uint64(_GOLDEN))
        element = np.arange(1, heads * dim + 1, dtype=np.uint64) * np.uint64(_GOLDEN)
        bits = _mixed(token[:, None] + element) >> np.uint64(41)
        unit = bits.astype(np.float32) * np.float32(2.0**-22) - np.float32(1)
        return unit.reshape(len(tokens), heads, dim)


def _turned(rows: Rows, positions: NDArray[np.int64]) -> Rows:
    turned: Rows = rotated(np, rows, turns_of(positions, rows.shape[-1]))
    return turned


def _mixed(x: NDArray[np.uint64] | np.uint64) -> NDArray[np.uint64]:
    """The finaliser of splitmix64 (Steele, Lea, Flood, OOPSLA 2014)."""
    with np.errstate(over="ignore"):
        x = np.asarray(x, dtype=np.uint64) + np.uint64(_GOLDEN)
        x = (x ^ x >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ x >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
        return x ^ x >> np.uint64(31)


def identities_of(seq: Sequence, start: int, n: int) -> Identities:
    """The identities of tokens ``start .. start + n - 1``, from the sequence's path."""
    index = np.arange(start, start + n, dtype=np.int64)
    ends = np.array([end for _, end in seq.path], dtype=np.int64)
    branches = np.array([branch for branch, _ in seq.path], dtype=np.int64)
    # A draft may reach beyond the end, on the last branch.
    which = np.minimum(np.searchsorted(ends, index, side="right"), len(ends) - 1)
    return np.stack([branches[which], index], axis=1)
