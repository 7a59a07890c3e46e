"""``llama_memory_hybrid`` and its iSWA kin: attention caches and recurrent states together."""

from __future__ import annotations

from typing import Any

from sim.compiled import is_a
from sim.llamacpp.batch import Batch, Decodes, Refusal
from sim.llamacpp.cell_run import CellRun
from sim.llamacpp.iswa import ISWACache
from sim.llamacpp.kv_cache import KVCache
from sim.llamacpp.memory import Memory
from sim.llamacpp.pending import Update
from sim.llamacpp.placed import Placed
from sim.llamacpp.placement import Placement
from sim.llamacpp.recurrent import RecurrentCache
from sim.llamacpp.state import CacheState
from sim.llamacpp.ubatch import Ubatch, split_equal


class HybridCache(Memory):
    """An attention half (plain or iSWA) and a recurrent half.

    A position counts as present only if both halves have it, so the lowest is the higher of the two
    and the highest the lower of the two.
    """

    def __init__(self, attention: KVCache | ISWACache, recurrent: RecurrentCache) -> None:
        self.attention = attention
        self.recurrent = recurrent
        self._is_plain = is_a(attention, KVCache)

    # ---- placing tokens

    def place(self, batch: Batch, n_ubatch: int) -> Placed | Refusal:
        """Sets of equal length; the recurrent half first. There is no second way of splitting."""
        recurrent = self.recurrent
        ubatches = split_equal(batch, n_ubatch, recurrent.sequential, recurrent.keep_tail)
        if ubatches is None:
            return Refusal.COUPLED
        recurrent.observer.on_split(ubatches)
        before = recurrent.snapshot()
        states = recurrent.prepare(ubatches)
        placements = None if states is None else self._prepare_attention(ubatches)
        if states is None or placements is None:
            recurrent.restore(before)
            return Refusal.NO_SLOT
        for placement in placements.values():
            placement.commit()
        slots = {name: placement.slots for name, placement in placements.items()}
        return Placed(ubatches, slots, states)

    def _prepare_attention(self, ubatches: list[Ubatch]) -> dict[str, Placement] | None:
        if is_a(self.attention, ISWACache):
            return self.attention.prepare(ubatches)
        placement = self.attention.prepare(ubatches)
        return None if placement is None else {self.attention.name: placement}

    def plan_decode_run(self, decodes: Decodes, n: int) -> dict[str, CellRun]:
        """The steps that both halves can plan."""
        states = self.recurrent.plan_decode_run(decodes, n)
        steps = states[self.recurrent.name].steps
        plan = self.attention.plan_decode_run(decodes, steps)
        return plan | states

    def apply_decode_run(self, plan: dict[str, CellRun], steps: int) -> None:
        """Carry out the first ``steps`` steps in both."""
        self.attention.apply_decode_run(plan, steps)
        self.recurrent.apply_decode_run(plan, steps)

    # ---- sequence operations

    def update(self) -> Update:
        """Pending work of the attention half."""
        return self.attention.update()

    def optimize(self) -> Update:
        """Close the holes of the attention half."""
        return self.attention.optimize()

    def can_shift(self) -> bool:
        """What the attention half says."""
        return self.attention.can_shift()

    def clear(self) -> None:
        """Clear both."""
        self.attention.clear()
        self.recurrent.clear()

    def seq_rm(self, seq: int, p0: int, p1: int) -> bool:
        """Recurrent first: if that is impossible, nothing is removed at all."""
        return self.recurrent.seq_rm(seq, p0, p1) and self.attention.seq_rm(seq, p0, p1)

    def seq_cp(self, src: int, dst: int, p0: int, p1: int) -> None:
        """Copy in both; the state goes whole, whatever the range."""
        self.attention.seq_cp(src, dst, p0, p1)
        self.recurrent.seq_cp(src, dst, p0, p1)

    def seq_keep(self, seq: int) -> None:
        """Keep in both."""
        self.attention.seq_keep(seq)
        self.recurrent.seq_keep(seq)

    def seq_add(self, seq: int, p0: int, p1: int, by: int) -> None:
        """Move in both."""
        self.attention.seq_add(seq, p0, p1, by)
        self.recurrent.seq_add(seq, p0, p1, by)

    def seq_div(self, seq: int, p0: int, p1: int, by: int) -> None:
        """Divide in both."""
        self.attention.seq_div(seq, p0, p1, by)
        self.recurrent.seq_div(seq, p0, p1, by)

    def seq_pos_min(self, seq: int) -> int:
        """The higher of the two; it can be above `seq_pos_max`."""
        return max(self.attention.seq_pos_min(seq), self.recurrent.seq_pos_min(seq))

    def seq_pos_max(self, seq: int) -> int:
        """The lower of the two."""
        return min(self.attention.seq_pos_max(seq), self.recurrent.seq_pos_max(seq))

    # ---- state

    def save(self, seq: int | None, partial: bool) -> list[CacheState]:
        """Attention, then states; partial leaves a plain attention cache out."""
        attention = [] if partial and self._is_plain else self.attention.save(seq, partial)
        return attention + self.recurrent.save(seq, partial)

    def saved_caches(self, partial: bool) -> list[str]:
        """Those of the attention half (a plain one not if partial), and the states."""
        attention = [] if partial and self._is_plain else self.attention.saved_caches(partial)
        return [*attention, self.recurrent.name]

    def load(self, states: list[CacheState], seq: int | None) -> bool:
        """Attention first; if that fails, the recurrent half is not touched."""
        if len(states) > 1 and not self.attention.load(states, seq):
            return False
        return self.recurrent.load(states, seq)

    def state_bytes(self, seq: int, partial: bool) -> int:
        """Bytes of what `save` would save."""
        attention = 0 if partial and self._is_plain else self.attention.state_bytes(seq, partial)
        return attention + self.recurrent.state_bytes(seq, partial)

    def snapshot(self) -> Any:
        """Both."""
        return self.attention.snapshot(), self.recurrent.snapshot()

    def restore(self, snapshot: Any) -> None:
        """Both."""
        self.attention.restore(snapshot[0])
        self.recurrent.restore(snapshot[1])

    def check_integrity(self) -> None:
        """Both."""
        self.attention.check_integrity()
        self.recurrent.check_integrity()
