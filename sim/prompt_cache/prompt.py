"""What one slot's cache holds: which tokens, and the checkpoints made on the way."""

from __future__ import annotations

from dataclasses import dataclass, field

from sim.llamacpp.state import SavedState
from workloads.prefix import common_prefix
from workloads.request import PrefixPath


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The part of a slot's state that removing positions cannot get back, at one moment.

    request: which request it was made for. tokens: how many the slot held. low, high: positions
    that the memory named then. nbytes: of the saved state.
    """

    request: int
    tokens: int
    low: int
    high: int
    state: SavedState
    nbytes: int


@dataclass(slots=True)
class Prompt:
    """Tokens of a cache (llama-server's ``server_prompt``), by their prefix path.

    tokens: how many. known: leading ones that ``path`` identifies; the others were moved there by
    a context shift and are a prefix of nothing. checkpoints: oldest first.
    """

    path: PrefixPath = ()
    tokens: int = 0
    known: int = 0
    checkpoints: list[Checkpoint] = field(default_factory=list)

    @property
    def checkpoint_bytes(self) -> int:
        """Bytes of all checkpoints."""
        return sum(checkpoint.nbytes for checkpoint in self.checkpoints)

    def shared_with(self, path: PrefixPath, length: int) -> int:
        """Leading tokens that are also the first of the ``length`` tokens along ``path``."""
        return min(common_prefix(self.path, path), self.known, length)

    def contains(self, other: Prompt) -> bool:
        """Whether this begins with all tokens of ``other``."""
        return self.shared_with(other.path, other.known) == other.tokens

    def keep(self, path: PrefixPath, tokens: int) -> None:
        """The first ``tokens`` are left; they lie along ``path``, and so does what will follow."""
        self.path = path
        self.tokens = self.known = tokens

    def copy(self) -> Prompt:
        """The same, with a list of checkpoints of its own."""
        return Prompt(self.path, self.tokens, self.known, list(self.checkpoints))
