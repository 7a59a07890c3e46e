"""The cells on which searches are compared: nearly full, the free ones scattered."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

#: Sequences that hold cells.
HOLDERS = 9


@dataclass(frozen=True, slots=True)
class Scattered:
    """A cache's cells before the sequence ``free`` is removed from it, and what is then placed.

    pos, seq: int[cells], of every cell. tokens: how many are placed, as sequence ``free``.
    """

    pos: NDArray[np.intp]
    seq: NDArray[np.intp]
    tokens: int
    free: int = HOLDERS

    @property
    def size(self) -> int:
        """Cells of the cache."""
        return self.pos.size

    @property
    def n_free(self) -> int:
        """Cells that are free once the sequence is removed."""
        return int((self.seq == self.free).sum())

    def config(self) -> dict[str, int | bool]:
        """The context that has such a cache and takes the tokens in one ubatch."""
        return {
            "n_ctx": self.size,
            "n_batch": self.tokens,
            "n_ubatch": self.tokens,
            "n_seq_max": HOLDERS + 1,
            "flash_attn": True,
        }


def scatter(size: int, full: float, tokens: int, seed: int) -> Scattered:
    """``size`` cells, the share ``full`` of them held by sequences in turn, by chance."""
    rng = np.random.default_rng(seed)
    seq = rng.integers(0, HOLDERS, size)
    seq[rng.choice(size, round(size * (1 - full)), replace=False)] = HOLDERS
    pos = np.empty(size, np.intp)
    for holder in range(HOLDERS + 1):
        held = np.flatnonzero(seq == holder)
        pos[held] = np.arange(held.size)
    return Scattered(pos, seq, tokens)
