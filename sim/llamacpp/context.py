"""``llama_context`` as far as its memory goes: decode, sequence calls, state, memory use."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from sim.llamacpp.batch import Batch, Decodes, Refusal, refusal_of
from sim.llamacpp.build import caches_for
from sim.llamacpp.cell_run import CellRun
from sim.llamacpp.cells import Cellset
from sim.llamacpp.errors import EngineAborts, StateMismatch
from sim.llamacpp.geometry import CacheGeometry
from sim.llamacpp.memory import CacheUsage
from sim.llamacpp.observer import Observer
from sim.llamacpp.pending import Update
from sim.llamacpp.placed import Placed
from sim.llamacpp.sizes import CacheBytes, ContextParams, context_sizes
from sim.llamacpp.state import SEQ_HEADER, SavedState


@dataclass(slots=True)
class DecodeResult:
    """What one ``llama_decode`` did.

    ret: 0 done, 1 no room, -1 refused input. refusal: why not 0. update: the pending work carried
    out before. placed: where the tokens went; None unless ret is 0.
    """

    ret: int
    refusal: Refusal | None = None
    update: Update = field(default_factory=Update)
    placed: Placed | None = None


class Context:
    """One context of a model: its sizes, and its memory, changed by calls as the engine's is.

    memory, attention, recurrent: see `sim.llamacpp.build.Caches`.
    """

    def __init__(self, geometry: CacheGeometry, params: ContextParams) -> None:
        """Raises `EngineAborts` or `ContextRefused` where the engine has no context to give."""
        self.geometry = geometry
        self.params = params
        self.sizes = context_sizes(params, geometry.n_ctx_train)
        caches = caches_for(geometry, params, self.sizes)
        self.memory = caches.memory
        self.attention = caches.attention
        self.recurrent = caches.recurrent

    def observe(self, observer: Observer) -> None:
        """Tell ``observer`` of everything that the caches do from now on."""
        for cache in self.attention.values():
            cache.observer = observer
        if self.recurrent is not None:
            self.recurrent.observer = observer

    # ---- decoding

    def decode(self, runs: Iterable[tuple[Sequence[int], int, int]]) -> DecodeResult:
        """Process tokens: ``(sequence ids, first position, n)`` in batch order.

        In the engine's order: checks (nothing has changed if they fail), pending copies and
        K-shifts, splitting, finding cells for all ubatches. Raises `EngineAborts`.
        """
        batch = Batch(runs)
        refusal = refusal_of(batch, self.memory, self.sizes.n_seq_max)
        if refusal is not None:
            return DecodeResult(-1, refusal)
        if batch.n_tokens > self.sizes.n_batch:
            raise EngineAborts(
                f"decode({batch.n_tokens} tokens)",
                f"GGML_ASSERT(n_tokens_all <= cparams.n_batch = {self.sizes.n_batch})",
            )
        update = self.memory.update()
        placed = self.memory.place(batch, self.sizes.n_ubatch)
        if isinstance(placed, Refusal):
            return DecodeResult(1, placed, update)
        return DecodeResult(0, None, update, placed)

    def plan_decode_run(self, seqs: list[int], n: int) -> dict[str, CellRun]:
        """Up to ``n`` decodes of one next token of every sequence, planned at once.

        Every cache's plan has the same number of steps; none (an empty dict) where the next decode
        has to be made by `decode`: pending work, more sequences than a ubatch or batch holds, ids
        that are refused. Nothing changes.
        """
        if not seqs or len(seqs) > min(self.sizes.n_ubatch, self.sizes.n_batch):
            return {}
        known = min(seqs) >= 0 and max(seqs) < self.sizes.n_seq_max
        if not known or len(set(seqs)) < len(seqs) or self.has_pending():
            return {}
        firsts = np.array(self.memory.next_positions(seqs), dtype=np.int64)
        plan = self.memory.plan_decode_run(Decodes(np.array(seqs, dtype=np.intp), firsts), n)
        return plan if min(run.steps for run in plan.values()) else {}

    def apply_decode_run(self, plan: dict[str, CellRun], steps: int) -> None:
        """Carry out the first ``steps`` decodes of a plan made for the context as it is."""
        self.memory.apply_decode_run(plan, steps)

    def has_pending(self) -> bool:
        """Whether the next decode has copies or shifts to carry out first."""
        return any(cache.has_pending() for cache in self.attention.values())

    # ---- sequences

    def seq_rm(self, seq: int, p0: int, p1: int) -> bool:
        """See `Memory.seq_rm`."""
        return self.memory.seq_rm(seq, p0, p1)

    def seq_cp(self, src: int, dst: int, p0: int, p1: int) -> None:
        """See `Memory.seq_cp`."""
        self.memory.seq_cp(src, dst, p0, p1)

    def seq_keep(self, seq: int) -> None:
        """See `Memory.seq_keep`."""
        self.memory.seq_keep(seq)

    def seq_add(self, seq: int, p0: int, p1: int, by: int) -> None:
        """See `Memory.seq_add`."""
        self.memory.seq_add(seq, p0, p1, by)

    def seq_div(self, seq: int, p0: int, p1: int, by: int) -> None:
        """See `Memory.seq_div`."""
        self.memory.seq_div(seq, p0, p1, by)

    def clear(self) -> None:
        """See `Memory.clear`."""
        self.memory.clear()

    def seq_pos(self, seq: int) -> tuple[int, int]:
        """Lowest and highest position of ``seq``, as the memory module reports them."""
        return self.memory.seq_pos_min(seq), self.memory.seq_pos_max(seq)

    def can_shift(self) -> bool:
        """See `Memory.can_shift`."""
        return self.memory.can_shift()

    # ---- state

    def state_seq_size(self, seq: int, partial: bool = False) -> int:
        """Bytes that saving ``seq`` would write."""
        return SEQ_HEADER + self.memory.state_bytes(seq, partial)

    def state_seq_save(self, seq: int, partial: bool = False) -> SavedState:
        """Save one sequence. A K-shift that pends is not carried out before (not with strict)."""
        return SavedState(self.memory.save(seq, partial), partial=partial)

    def state_seq_load(self, saved: SavedState, seq: int) -> int:
        """Restore a saved sequence as ``seq``. Returns the bytes read, 0 if there is no room.

        ``seq`` is gone after a failure (with strict: as before). Raises `StateMismatch` for state
        of another kind of context, or of a whole one.
        """
        if saved.arch is not None:
            raise StateMismatch("a whole context's state cannot be restored as a sequence")
        return self._load(saved, seq)

    def state_save(self) -> SavedState:
        """Save the whole context."""
        return SavedState(self.memory.save(None, False), self.geometry.arch)

    def state_load(self, saved: SavedState) -> int:
        """Restore a whole context; everything else is forgotten. Returns the bytes read or 0."""
        if saved.arch != self.geometry.arch:
            raise StateMismatch(f"state of {saved.arch or 'one sequence'}, not of a whole context")
        return self._load(saved, None)

    def _load(self, saved: SavedState, seq: int | None) -> int:
        parts, expected = [p.cache for p in saved.parts], self.memory.saved_caches(saved.partial)
        if parts != expected:
            raise StateMismatch(f"state of caches {parts}, not {expected}")
        before = self.memory.snapshot() if self.params.strict else None
        if self.memory.load(list(saved.parts), seq):
            return saved.nbytes
        if before is not None:
            self.memory.restore(before)
        return 0

    # ---- use

    def usage(self) -> dict[str, CacheUsage]:
        """How full every cache is, by name."""
        found = {name: cache.usage() for name, cache in self.attention.items()}
        recurrent = self.recurrent
        return found if recurrent is None else found | {recurrent.name: recurrent.usage()}

    def memory_breakdown(self) -> dict[str, CacheBytes]:
        """Bytes of every cache, by name."""
        found = {name: cache.memory_bytes() for name, cache in self.attention.items()}
        recurrent = self.recurrent
        return found if recurrent is None else found | {recurrent.name: recurrent.memory_bytes()}

    def cells_of(self, seq: int) -> dict[str, tuple[Cellset, Cellset]]:
        """(positions, cells) of ``seq`` in every attention cache, in cell order."""
        return {name: c.cells_of(seq) for name, c in self.attention.items()}

    def check_integrity(self) -> None:
        """Raise `IntegrityError` unless all bookkeeping agrees with the cells."""
        self.memory.check_integrity()
