"""``llama_memory_recurrent``: one cell of state a sequence, or shared by several."""

from __future__ import annotations

from typing import Any

import numpy as np

from sim.llamacpp.batch import Batch, Decodes, Refusal
from sim.llamacpp.cell_run import CellRun
from sim.llamacpp.cells import EMPTY
from sim.llamacpp.errors import EngineAborts, IntegrityError
from sim.llamacpp.geometry import RecurrentGeometry
from sim.llamacpp.memory import CacheUsage, Memory
from sim.llamacpp.observer import SILENT, Observer
from sim.llamacpp.pending import Update
from sim.llamacpp.placed import Placed, StateSlot
from sim.llamacpp.recurrent_cells import RecurrentCells
from sim.llamacpp.sizes import CacheBytes, recurrent_bytes
from sim.llamacpp.state import CacheState, RecurrentState, recurrent_data_bytes
from sim.llamacpp.streams import position_range
from sim.llamacpp.token_ids import as_met
from sim.llamacpp.ubatch import Ubatch, split_equal, split_singles


class RecurrentCache(Memory):
    """Recurrent states. A cell's position is the last one its state has seen.

    size: cells, as many as sequences. n_rs_seq: snapshots per sequence, each one token older, that
    removing the last tokens can fall back on. sequential: whether a ubatch takes sequences only
    while their ids follow one another.
    """

    name = "rs"

    def __init__(
        self,
        geometry: RecurrentGeometry,
        *,
        n_seq_max: int,
        n_rs_seq: int = 0,
        sequential: bool = True,
        strict: bool = False,
    ) -> None:
        self.geometry = geometry
        self.size = n_seq_max
        self.n_rs_seq = n_rs_seq
        self.sequential = sequential
        self.strict = strict
        self.observer: Observer = SILENT
        self.cells = RecurrentCells(n_seq_max)

    def usage(self) -> CacheUsage:
        """How full the cache is; a state is live as long as it is used."""
        owners = self.cells.owners
        used = self.cells.count_used()
        longest = run = 0
        for mask in owners:
            run = 0 if mask else run + 1
            longest = max(longest, run)
        shared = sum(1 for mask in owners if mask & (mask - 1))
        return CacheUsage(self.size, used, self.size - used, longest, used, shared)

    def memory_bytes(self) -> CacheBytes:
        """Bytes of R and of S, snapshots included."""
        return recurrent_bytes(self.geometry, self.size, self.n_rs_seq)

    def has_tail(self, seq: int) -> bool:
        """Whether ``seq`` has a state."""
        return 0 <= seq < self.size and self.cells.tails[seq] != EMPTY

    # ---- placing tokens

    def place(self, batch: Batch, n_ubatch: int) -> Placed | Refusal:
        """Split sequence by sequence, always, and give every sequence a state of its own."""
        ubatches = split_equal(batch, n_ubatch, self.sequential, self.keep_tail)
        if ubatches is None:
            return Refusal.COUPLED
        self.observer.on_split(ubatches)
        before = self.snapshot()
        states = self.prepare(ubatches)
        if states is None:
            self.restore(before)
            return Refusal.NO_SLOT
        return Placed(ubatches, states=states)

    @property
    def keep_tail(self) -> int:
        """Tokens at the end of a sequence that a split must keep together."""
        return self.n_rs_seq + 1 if self.n_rs_seq else 0

    def prepare(self, ubatches: list[Ubatch]) -> list[StateSlot] | None:
        """States for all ubatches, one after the other; None as soon as one has none.

        Takes nothing back: callers keep a `snapshot`, as the engine does.
        """
        found = []
        for ubatch in ubatches:
            slot = self._find(ubatch)
            if slot is None:
                return None
            found.append(slot)
        return found

    def _find(self, ubatch: Ubatch) -> StateSlot | None:
        span = self.cells.assign(*_last_of_each(ubatch))
        if span is None:
            return None
        first, last = span
        copies = []
        for cell in range(first, last + 1):
            plane = 0
            mask = self.cells.owners[cell]
            if self.n_rs_seq and mask:
                # The graph reads the rolled-back snapshot of a cell's lowest sequence, once.
                lowest = (mask & -mask).bit_length() - 1
                plane = self.cells.rolled_back[lowest]
                self.cells.rolled_back[lowest] = 0
            source = self.cells.sources[cell]
            if source == EMPTY or plane or source != cell:
                copies.append((source if source == EMPTY else plane * self.size + source, cell))
            self.cells.sources[cell] = cell
        return StateSlot(first, copies, last - first + 1)

    def plan_decode_run(self, decodes: Decodes, n: int) -> dict[str, CellRun]:
        """All ``n`` steps, once the arrangement of the states has settled; else none."""
        groups = split_singles(decodes.seqs.tolist(), self.sequential)
        settled = all(self.cells.is_settled(group) for group in groups)
        no_cells = np.empty((n if settled else 0, 0), np.intp)
        return {self.name: CellRun(decodes, no_cells)}

    def apply_decode_run(self, plan: dict[str, CellRun], steps: int) -> None:
        """Carry out ``steps`` steps: only positions and the head change."""
        run, cells = plan[self.name], self.cells
        if not steps:
            return
        seqs = run.decodes.seqs.tolist()
        for seq, first in zip(seqs, run.decodes.firsts.tolist(), strict=True):
            cells.pos[cells.tails[seq]] = first + steps - 1
        cells.head = cells.tails[split_singles(seqs, self.sequential)[-1][0]]
        cells.used = cells.count_used()

    # ---- sequence operations

    def update(self) -> Update:
        """Nothing ever pends: positions have no part in a recurrent state."""
        return Update()

    def can_shift(self) -> bool:
        """Always."""
        return True

    def clear(self) -> None:
        """Forget everything."""
        self.cells = RecurrentCells(self.size)

    def seq_rm(self, seq: int, p0: int, p1: int) -> bool:
        """Remove a state, or fall back on a snapshot; False where that is not possible.

        The engine compares ids unsigned, so that -1 (everybody) is refused; ``strict`` obeys it.
        On a shared cell the engine's rollback moves the other sharers' position too; ``strict``
        refuses it.
        """
        if seq == -1 and self.strict:
            done = [self.seq_rm(each, p0, p1) for each in range(self.size)]
            return all(done)
        if not 0 <= seq < self.size:
            return False
        start, end = position_range(p0, p1)
        if start == 0 and end is None:
            self.cells.rolled_back[seq] = 0
        tail = self.cells.tails[seq]
        if tail == EMPTY:
            return True
        pos = self.cells.pos[tail]
        if not (start <= pos and (end is None or pos < end)):
            return True
        if start == 0:
            self.cells.release(seq)
            return True
        back = pos - (start - 1)
        if self.cells.rolled_back[seq] or back > self.n_rs_seq:
            return False
        if self.strict and self.cells.owners[tail] != 1 << seq:
            return False
        self.cells.rolled_back[seq] = back
        self.cells.pos[tail] = start - 1
        return True

    def seq_cp(self, src: int, dst: int, p0: int, p1: int) -> None:
        """``dst`` shares the state of ``src``, whatever the range; unknown ids are ignored."""
        if src != dst and 0 <= src < self.size and 0 <= dst < self.size:
            self.cells.share(src, dst)

    def seq_keep(self, seq: int) -> None:
        """Forget all others; an unknown or empty id forgets everything."""
        self.cells.keep(seq)

    def seq_add(self, seq: int, p0: int, p1: int, by: int) -> None:
        """Move the position of ``seq``'s state, for all sharers; it may become negative."""
        tail = self._moving(seq, p0, p1)
        if tail is not None:
            self.cells.pos[tail] += by

    def seq_div(self, seq: int, p0: int, p1: int, by: int) -> None:
        """Divide the position of ``seq``'s state, for all sharers."""
        tail = None if by == 1 else self._moving(seq, p0, p1)
        if tail is None:
            return
        if by == 0:
            raise EngineAborts(f"seq_div({seq}, {p0}, {p1}, 0)", "SIGFPE: division by zero")
        pos = self.cells.pos[tail]
        self.cells.pos[tail] = abs(pos) // abs(by) * (1 if (pos < 0) == (by < 0) else -1)

    def _moving(self, seq: int, p0: int, p1: int) -> int | None:
        """The cell of ``seq`` if its position lies in the range."""
        if not self.has_tail(seq):
            return None
        start, end = position_range(p0, p1)
        tail = self.cells.tails[seq]
        inside = start <= self.cells.pos[tail] and (end is None or self.cells.pos[tail] < end)
        return tail if inside else None

    def seq_pos_min(self, seq: int) -> int:
        """Position of ``seq``'s state (it can be negative), -1 without one."""
        return self.cells.pos[self.cells.tails[seq]] if self.has_tail(seq) else -1

    def seq_pos_max(self, seq: int) -> int:
        """Position of ``seq``'s state, -1 without one or if it is negative."""
        return max(-1, self.seq_pos_min(seq))

    # ---- state

    def save(self, seq: int | None, partial: bool) -> list[CacheState]:
        """The state of ``seq``, or all states with their sequences."""
        cells = self.cells
        saved: list[tuple[int, tuple[int, ...]]] = []
        for cell, mask in enumerate(cells.owners):
            ids = tuple(s for s in range(self.size) if mask >> s & 1)
            if seq is None and mask:
                if self.n_rs_seq and len({cells.rolled_back[s] for s in ids}) > 1:
                    raise EngineAborts(
                        "state_save", "GGML_ABORT: sharers of a state were rolled back differently"
                    )
                saved.append((cells.pos[cell], ids))
            elif seq in ids:
                saved.append((cells.pos[cell], ()))
        return [RecurrentState(self.geometry, saved)]

    def saved_caches(self, partial: bool) -> list[str]:
        """Itself, always."""
        return [self.name]

    def load(self, states: list[CacheState], seq: int | None) -> bool:
        """Replace the state of ``seq``, or everything; no saved state removes ``seq``."""
        state = states.pop(0)
        assert isinstance(state, RecurrentState)
        if len(state.cells) > self.size:
            return False
        if seq is None:
            self.clear()
            for cell, (pos, ids) in enumerate(state.cells):
                self.cells.fill(cell, pos, ids)
            return True
        self.seq_rm(seq, -1, -1)
        if not state.cells:
            return True
        if not 0 <= seq < self.size:
            return False
        span = self.cells.assign([(seq,)], [state.cells[-1][0]])
        if span is None:
            return False
        self.cells.sources[span[0]] = span[0]
        self.cells.rolled_back[seq] = 0
        return True

    def state_bytes(self, seq: int, partial: bool) -> int:
        """Bytes of the state of ``seq``."""
        n = int(self.has_tail(seq))
        return 4 + 8 * n + recurrent_data_bytes(self.geometry, n)

    def snapshot(self) -> Any:
        """All cells."""
        return self.cells.copy()

    def restore(self, snapshot: Any) -> None:
        """Go back to a snapshot."""
        self.cells = snapshot.copy()

    def check_integrity(self) -> None:
        """Raise `IntegrityError` unless every sequence's tail is the one cell that holds it."""
        for seq, tail in enumerate(self.cells.tails):
            holding = [c for c, mask in enumerate(self.cells.owners) if mask >> seq & 1]
            if holding != ([] if tail == EMPTY else [tail]):
                raise IntegrityError(f"sequence {seq}: tail {tail}, but held by cells {holding}")


def _last_of_each(ubatch: Ubatch) -> tuple[list[tuple[int, ...]], list[int]]:
    """The sequence sets of a ubatch, as the engine meets them, and the last position of each."""
    sets, lasts = [], []
    seen = 0
    for seqs, first, n in ubatch.runs:
        seen += n
        if seen % ubatch.n_seq_tokens == 0:
            sets.append(as_met(seqs))
            lasts.append(first + n - 1)
    return sets, lasts
