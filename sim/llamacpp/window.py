"""Which cells attention can no longer see: the windows of sliding-window layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

Position = TypeVar("Position", np.int32, np.int64)
WindowKind = Literal["none", "standard", "chunked"]


@dataclass(frozen=True, slots=True)
class Window:
    """An attention window of ``n`` positions (``llama_hparams::is_masked_swa``).

    standard: position q sees p while q - p < n. chunked: q sees p in its own chunk of n positions.
    none: everything is seen.
    """

    kind: WindowKind = "none"
    n: int = 0

    @property
    def bounded(self) -> bool:
        """Whether anything is ever masked."""
        return self.kind != "none"

    def last_masked(self, at: int) -> int:
        """The highest position that a token at position ``at`` cannot see; below 0: none."""
        if self.kind == "standard":
            return at - self.n
        if self.kind == "chunked":
            return at // self.n * self.n - 1
        return -1

    def last_seer(self, at: NDArray[Position]) -> NDArray[Position]:
        """The last position whose token sees position ``at``; of a window that is bounded."""
        if self.kind == "standard":
            return at + (self.n - 1)
        return (at // self.n + 1) * self.n - 1

    def seen_by_next(self, last: NDArray[np.int64]) -> NDArray[np.int64] | int:
        """Tokens before it that the token after each position ``last`` sees, if they are there.

        One number where that is the same for all.
        """
        if self.kind == "standard":
            return self.n - 1
        return (last + 1) % self.n if self.kind == "chunked" else last + 1


UNBOUNDED = Window()
