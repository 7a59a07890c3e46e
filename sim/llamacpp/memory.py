"""The face that all memory modules of the engine share (``llama_memory_i``)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from sim.compiled import mypyc_attr
from sim.llamacpp.batch import Batch, Decodes, Refusal
from sim.llamacpp.cell_run import CellRun
from sim.llamacpp.pending import Update
from sim.llamacpp.placed import Placed
from sim.llamacpp.state import CacheState


@dataclass(frozen=True, slots=True)
class CacheUsage:
    """How full one cache is; all numbers are cells, over all streams.

    live: used and still seen by the next token of its sequence (a window can have passed a cell).
    shared: held by two sequences or more. largest_free_run: consecutive empty cells of one stream.
    """

    cells: int
    used: int
    free: int
    largest_free_run: int
    live: int
    shared: int


@mypyc_attr(allow_interpreted_subclasses=True)
class Memory(ABC):
    """One memory module: a cache, or several behind one face.

    Ranges of positions are [p0, p1); p0 < 0 means 0, p1 < 0 means no end, as in the engine.
    Operations raise `EngineAborts` where the engine's process would end.
    """

    @abstractmethod
    def place(self, batch: Batch, n_ubatch: int) -> Placed | Refusal:
        """Split the batch and find cells for all of it, or refuse it.

        What a refusal leaves behind is what the engine leaves (see `sim.llamacpp.defects`).
        """

    @abstractmethod
    def plan_decode_run(self, decodes: Decodes, n: int) -> dict[str, CellRun]:
        """Up to ``n`` decode steps, each one token of every sequence, planned at once.

        ``decodes`` is the first of them. Nothing changes. Every cache plans the same
        number of steps; 0 where a step has to be made singly.
        """

    @abstractmethod
    def apply_decode_run(self, plan: dict[str, CellRun], steps: int) -> None:
        """Carry out the first ``steps`` steps of a plan just made."""

    @abstractmethod
    def update(self) -> Update:
        """Carry out pending row copies and K-shifts; says what was done."""

    def optimize(self) -> Update:
        """Close holes whether or not there are many, where the memory does that at all."""
        return Update()

    @abstractmethod
    def can_shift(self) -> bool:
        """What ``llama_memory_can_shift`` says."""

    @abstractmethod
    def clear(self) -> None:
        """Forget everything."""

    @abstractmethod
    def seq_rm(self, seq: int, p0: int, p1: int) -> bool:
        """Remove ``seq`` (-1: everybody) in a range; False, with nothing changed, if impossible."""

    @abstractmethod
    def seq_cp(self, src: int, dst: int, p0: int, p1: int) -> None:
        """What ``src`` holds in a range is held by ``dst`` too."""

    @abstractmethod
    def seq_keep(self, seq: int) -> None:
        """Forget all other sequences."""

    @abstractmethod
    def seq_add(self, seq: int, p0: int, p1: int, by: int) -> None:
        """Move the positions of ``seq`` in a range."""

    @abstractmethod
    def seq_div(self, seq: int, p0: int, p1: int, by: int) -> None:
        """Divide the positions of ``seq`` in a range (C division)."""

    @abstractmethod
    def seq_pos_min(self, seq: int) -> int:
        """Lowest position of ``seq``, -1 if none."""

    @abstractmethod
    def seq_pos_max(self, seq: int) -> int:
        """Highest position of ``seq``, -1 if none."""

    def next_positions(self, seqs: list[int]) -> list[int]:
        """For each of ``seqs``, one more than its highest position."""
        return [self.seq_pos_max(seq) + 1 for seq in seqs]

    @abstractmethod
    def save(self, seq: int | None, partial: bool) -> list[CacheState]:
        """The saved state of one sequence (None: of all), cache by cache in the engine's order.

        partial: only what cannot be got back by removing positions (windowed and recurrent caches).
        """

    @abstractmethod
    def saved_caches(self, partial: bool) -> list[str]:
        """Names of the caches that `save` saves, in its order."""

    @abstractmethod
    def load(self, states: list[CacheState], seq: int | None) -> bool:
        """Restore what `save` gave, in its order; False as soon as one cache cannot.

        A failure leaves what the engine leaves: caches restored before stay restored, and the
        cache that failed has lost the sequence (or everything).
        """

    @abstractmethod
    def state_bytes(self, seq: int, partial: bool) -> int:
        """Bytes of the caches' part of one sequence's saved state, counted without saving it."""

    @abstractmethod
    def snapshot(self) -> Any:
        """All of the bookkeeping, for `restore`. Used by ``strict`` to undo a failed load."""

    @abstractmethod
    def restore(self, snapshot: Any) -> None:
        """Go back to a snapshot."""

    @abstractmethod
    def check_integrity(self) -> None:
        """Raise `IntegrityError` unless all bookkeeping agrees with the cells."""
