"""``llama_kv_cache_iswa``: a full cache and a sliding-window cache behind one face."""

from __future__ import annotations

from typing import Any

from sim.llamacpp.batch import Batch, Decodes, Refusal
from sim.llamacpp.cell_run import CellRun
from sim.llamacpp.kv_cache import KVCache
from sim.llamacpp.memory import Memory
from sim.llamacpp.pending import Update
from sim.llamacpp.placed import Placed
from sim.llamacpp.placement import Placement
from sim.llamacpp.state import CacheState
from sim.llamacpp.ubatch import Ubatch, split_equal, split_simple


class ISWACache(Memory):
    """``base`` (every position) and ``swa`` (a window); every operation goes to both.

    Positions reported are those of ``swa``: the lowest rises as its cells are overwritten.
    unified: whether the context was asked for one stream for all sequences. A context of a single
    sequence that was not has one stream too, but splits its batches as if it had several.
    """

    def __init__(self, base: KVCache, swa: KVCache, *, unified: bool) -> None:
        self.base = base
        self.swa = swa
        self.unified = unified

    # ---- placing tokens

    def place(self, batch: Batch, n_ubatch: int) -> Placed | Refusal:
        """If unified, batch order is tried first; then sequence sets of equal length."""
        if self.unified:
            placed = self._try(split_simple(batch, n_ubatch))
            if placed is not None:
                return placed
        split = split_equal(batch, n_ubatch, sequential=not self.unified)
        if split is None:
            return Refusal.COUPLED
        return self._try(split) or Refusal.NO_SLOT

    def _try(self, ubatches: list[Ubatch]) -> Placed | None:
        self.base.observer.on_split(ubatches)
        both = self.prepare(ubatches)
        if both is None:
            return None
        for placement in both.values():
            placement.commit()
        return Placed(ubatches, {name: placement.slots for name, placement in both.items()})

    def prepare(self, ubatches: list[Ubatch]) -> dict[str, Placement] | None:
        """Place all ubatches in both caches, base first; both are taken back if one is full."""
        base = self.base.prepare(ubatches)
        if base is None:
            return None
        swa = self.swa.prepare(ubatches)
        if swa is None:
            base.roll_back()
            return None
        return {self.base.name: base, self.swa.name: swa}

    def plan_decode_run(self, decodes: Decodes, n: int) -> dict[str, CellRun]:
        """The steps that both caches can plan."""
        plan = self.base.plan_decode_run(decodes, n)
        steps = plan[self.base.name].steps
        return plan | self.swa.plan_decode_run(decodes, steps)

    def apply_decode_run(self, plan: dict[str, CellRun], steps: int) -> None:
        """Carry out the first ``steps`` steps in both."""
        self.base.apply_decode_run(plan, steps)
        self.swa.apply_decode_run(plan, steps)

    # ---- sequence operations

    def update(self) -> Update:
        """Pending work of the base cache, then of the other."""
        return self.base.update().extend(self.swa.update())

    def optimize(self) -> Update:
        """Close the holes of both."""
        return self.base.optimize().extend(self.swa.optimize())

    def can_shift(self) -> bool:
        """Only if both have the same number of cells (``seq_add`` works all the same)."""
        return self.base.size == self.swa.size

    def clear(self) -> None:
        """Clear both."""
        self.base.clear()
        self.swa.clear()

    def seq_rm(self, seq: int, p0: int, p1: int) -> bool:
        """Remove from both."""
        return self.base.seq_rm(seq, p0, p1) & self.swa.seq_rm(seq, p0, p1)

    def seq_cp(self, src: int, dst: int, p0: int, p1: int) -> None:
        """Copy in both."""
        self.base.seq_cp(src, dst, p0, p1)
        self.swa.seq_cp(src, dst, p0, p1)

    def seq_keep(self, seq: int) -> None:
        """Keep in both."""
        self.base.seq_keep(seq)
        self.swa.seq_keep(seq)

    def seq_add(self, seq: int, p0: int, p1: int, by: int) -> None:
        """Move in both."""
        self.base.seq_add(seq, p0, p1, by)
        self.swa.seq_add(seq, p0, p1, by)

    def seq_div(self, seq: int, p0: int, p1: int, by: int) -> None:
        """Divide in both."""
        self.base.seq_div(seq, p0, p1, by)
        self.swa.seq_div(seq, p0, p1, by)

    def seq_pos_min(self, seq: int) -> int:
        """Lowest position in the window cache."""
        return self.swa.seq_pos_min(seq)

    def seq_pos_max(self, seq: int) -> int:
        """Highest position in the window cache."""
        return self.swa.seq_pos_max(seq)

    # ---- state

    def next_positions(self, seqs: list[int]) -> list[int]:
        """As the window cache has them."""
        return self.swa.next_positions(seqs)

    def save(self, seq: int | None, partial: bool) -> list[CacheState]:
        """Base (not if partial), then the window cache."""
        base = [] if partial else self.base.save(seq, partial)
        return base + self.swa.save(seq, partial)

    def saved_caches(self, partial: bool) -> list[str]:
        """Both, or the window cache alone."""
        return [self.swa.name] if partial else [self.base.name, self.swa.name]

    def load(self, states: list[CacheState], seq: int | None) -> bool:
        """Base first; if the window cache then fails, base stays restored."""
        if states[0].cache == self.base.name and not self.base.load(states, seq):
            return False
        return self.swa.load(states, seq)

    def state_bytes(self, seq: int, partial: bool) -> int:
        """Bytes of both parts."""
        base = 0 if partial else self.base.state_bytes(seq, partial)
        return base + self.swa.state_bytes(seq, partial)

    def snapshot(self) -> Any:
        """Both."""
        return self.base.snapshot(), self.swa.snapshot()

    def restore(self, snapshot: Any) -> None:
        """Both."""
        self.base.restore(snapshot[0])
        self.swa.restore(snapshot[1])

    def check_integrity(self) -> None:
        """Both."""
        self.base.check_integrity()
        self.swa.check_integrity()
