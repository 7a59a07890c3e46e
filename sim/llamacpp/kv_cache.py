"""``llama_kv_cache``: streams of cells, where tokens go, and what ``seq_*`` calls do to them."""

from __future__ import annotations

from typing import Literal

import numpy as np

from sim.llamacpp.batch import Batch, Decodes, Refusal
from sim.llamacpp.cell_run import CellRun
from sim.llamacpp.cells import Cellset, Snapshot
from sim.llamacpp.decode_run import apply_decode_run, no_steps, plan_decode_run
from sim.llamacpp.defrag import is_fragmented, moves_by_sequence, moves_into_holes
from sim.llamacpp.errors import StrictRefusal
from sim.llamacpp.growth import keep_pace, note_tokens
from sim.llamacpp.integrity import check_cells
from sim.llamacpp.kv_state import fill_all, runs_of, save_state, state_bytes
from sim.llamacpp.memory import CacheUsage
from sim.llamacpp.pending import CellMoves, Update
from sim.llamacpp.placed import Placed, Slot
from sim.llamacpp.placement import Placement, Step
from sim.llamacpp.search import (
    find_contiguous,
    find_scattered,
    largest_free_run,
    start_of_search,
)
from sim.llamacpp.sizes import CELL_PAD, AttentionRows, CacheBytes, Defrag, padded
from sim.llamacpp.state import AttentionState, CacheState
from sim.llamacpp.streams import Streams
from sim.llamacpp.ubatch import Tokens, Ubatch, split_equal, split_simple
from sim.llamacpp.window import UNBOUNDED, Window

Slots = Literal["scattered", "contiguous"]


class KVCache(Streams):
    """One attention cache.

    size: cells of a stream. n_stream: 1, shared by all sequences, or one for each of ``n_seq_max``.
    Mutated by every call that is not a question.
    """

    def __init__(
        self,
        name: str,
        rows: AttentionRows,
        *,
        size: int,
        n_stream: int,
        n_seq_max: int,
        window: Window = UNBOUNDED,
        slots: Slots = "scattered",
        defrag: Defrag | None = None,
        strict: bool = False,
    ) -> None:
        super().__init__(
            name,
            rows,
            size=size,
            n_stream=n_stream,
            n_seq_max=n_seq_max,
            window=window,
            strict=strict,
        )
        self.slots = slots
        # Streams of one sequence each have no holes worth closing; the engine left them alone.
        self.defrag = defrag if n_stream == 1 else None

    # ---- questions

    def cells_of(self, seq: int) -> tuple[Cellset, Cellset]:
        """(positions, cell indices) of ``seq`` in its stream, in cell order."""
        cells = self._cells(f"cells_of({seq})", seq)
        held = cells.cells_of(seq)
        return cells.pos[held].astype(np.intp), held

    def n_kv(self, streams: list[int]) -> int:
        """Cells, per stream, that the attention of a ubatch in these streams scans.

        ``get_n_kv``: up to the highest used cell, padded, at least one pad, at most all.
        """
        top = max([self.streams[s].used_max_p1 for s in streams])
        return min(self.size, max(CELL_PAD, padded(top)))

    def usage(self) -> CacheUsage:
        """How full the cache is."""
        used = sum(cells.used for cells in self.streams)
        passed = 0
        if self.window.bounded:
            for cells in self.streams:
                passed += int(cells.dead().sum())
        total = self.size * self.n_stream
        return CacheUsage(
            cells=total,
            used=used,
            free=total - used,
            largest_free_run=max(largest_free_run(cells) for cells in self.streams),
            live=used - passed,
            shared=sum(cells.n_shared for cells in self.streams),
        )

    def memory_bytes(self) -> CacheBytes:
        """Bytes of K and of V."""
        return self.rows.bytes_of(self.size * self.n_stream)

    def can_shift(self) -> bool:
        """Always: whether the rows can really be rotated shows when it is done."""
        return True

    def check_integrity(self) -> None:
        """Raise `IntegrityError` unless all bookkeeping agrees with the cells."""
        for cells in self.streams:
            check_cells(cells)

    # ---- pending work

    def has_pending(self) -> bool:
        """Whether copies, a K-shift or the closing of holes wait for the next decode."""
        return super().has_pending() or self._is_fragmented()

    def _is_fragmented(self) -> bool:
        return self.defrag is not None and is_fragmented(self.streams[0], self.defrag.threshold)

    def update(self) -> Update:
        """Copies and K-shifts, then holes are closed if there are many."""
        done = super().update()
        return done.extend(self.optimize()) if self._is_fragmented() else done

    def optimize(self) -> Update:
        """Close holes, as far as one graph can; the search for cells then begins at 0."""
        done = Update()
        if self.defrag is None:
            return done
        cells = self.streams[0]
        if self.defrag.by_sequence:
            moves = moves_by_sequence(cells)
        else:
            most = self.defrag.rows_at_once(self.rows.geometry.layers)
            moves = moves_into_holes(cells, most)
        if moves.src.size:
            cells.move(*moves)
            self.heads[0] = 0
            done.moves.append(CellMoves(self.name, *moves, self.defrag.by_sequence))
        return done

    # ---- placing tokens

    def place(self, batch: Batch, n_ubatch: int) -> Placed | Refusal:
        """Split (in batch order; with several streams, sequence by sequence) and find cells."""
        if self.n_stream == 1:
            ubatches = split_simple(batch, n_ubatch)
        else:
            split = split_equal(batch, n_ubatch, sequential=True)
            if split is None:
                return Refusal.COUPLED
            ubatches = split
        self.observer.on_split(ubatches)
        placement = self.prepare(ubatches)
        if placement is None:
            return Refusal.NO_SLOT
        placement.commit()
        return Placed(ubatches, {self.name: placement.slots})

    def prepare(self, ubatches: list[Ubatch]) -> Placement | None:
        """Place all ubatches, one after the other; all are taken back if one finds no room."""
        placement = Placement(self, self.apply)
        for k, ubatch in enumerate(ubatches):
            slot = self.find_slot(ubatch.tokens_of(self.n_stream), k)
            if slot is None:
                placement.roll_back()
                return None
            placement.add(slot)
        return placement

    def find_slot(self, parts: list[tuple[int, Tokens]], ubatch: int | None) -> Slot | None:
        """Cells for the tokens of each stream, or None. Nothing changes."""
        self.observer.on_find_slot(self, ubatch, [stream for stream, _ in parts])
        find = find_scattered if self.slots == "scattered" else find_contiguous
        found: list[tuple[int, Tokens, Cellset]] = []
        for stream, tokens in parts:
            cells = self.streams[stream]
            start = start_of_search(self.heads[stream], cells.used, tokens.n)
            taken = find(cells, start, tokens.n)
            if taken is None:
                return None
            found.append((stream, tokens, taken))
        return Slot(found)

    def apply(self, slot: Slot) -> Step:
        """Write tokens to the cells found for them (``apply_ubatch``).

        Overwritten positions end a sequence's claim to all positions below them: those are purged,
        so that what a sequence has stays without holes.
        """
        step = Step(slot, list(self.heads), [])
        purged: list[tuple[int, int]] = []
        for stream, tokens, taken in slot.parts:
            cells = self.streams[stream]
            before, breaks = Snapshot(taken), False
            if self.window.bounded:
                before = cells.snapshot(taken)
                breaks = cells.overwrite(before, tokens.keys)
            else:
                cells.place(taken, tokens.keys)
            step.taken.append(before)
            note_tokens(cells, tokens, taken)
            if breaks or not cells.spans.all_regular:
                purged += before.highest_lost().items()
        for seq, highest in sorted(purged):
            self._purge(step, seq, highest)
        for stream, tokens, taken in slot.parts:
            self.heads[stream] = int(taken[-1]) + 1
            keep_pace(self.streams[stream], tokens, taken)
        slot.n_kv = self.n_kv([stream for stream, _, _ in slot.parts])
        return step

    def _purge(self, step: Step, seq: int, highest: int) -> None:
        stream = self.stream_of(seq)
        cells = self.streams[stream]
        lowest = cells.pos_min(seq)
        if lowest > highest:
            return
        step.purges += 1
        self.observer.on_purge(self, seq, lowest, highest)
        gone = cells.cells_of(seq, max(0, lowest), highest + 1)
        if gone.size:
            step.purged.append((stream, cells.snapshot(gone)))
            self.seq_rm(seq, lowest, highest + 1)

    def plan_decode_run(self, decodes: Decodes, n: int) -> dict[str, CellRun]:
        """See `Memory.plan_decode_run`; a closed form, whatever ``n``.

        Where all share a stream and slots are contiguous, tokens of several sequences need cells
        in a row: then none is planned.
        """
        if self.slots == "contiguous" and self.n_stream == 1 and decodes.seqs.size > 1:
            return {self.name: no_steps(decodes)}
        return {self.name: plan_decode_run(self, decodes, n)}

    def apply_decode_run(self, plan: dict[str, CellRun], steps: int) -> None:
        """Carry out the first ``steps`` steps of a plan just made."""
        apply_decode_run(self, plan[self.name], steps)

    # ---- state

    def save(self, seq: int | None, partial: bool) -> list[CacheState]:
        """The cells of ``seq`` (None: all used cells); a plain cache is never saved in part."""
        if seq is not None:
            self._cells(f"state_seq_save({seq})", seq)
        if self.strict and any(cells.has_shift for cells in self.streams):
            raise StrictRefusal("saving state with a K-shift pending: rows and positions disagree")
        return [save_state(self, seq)]

    def saved_caches(self, partial: bool) -> list[str]:
        """Itself."""
        return [self.name]

    def load(self, states: list[CacheState], seq: int | None) -> bool:
        """Restore one sequence, or with None everything. See `Memory.load`."""
        state = states.pop(0)
        assert isinstance(state, AttentionState)
        if seq is not None:
            self._cells(f"state_seq_load({seq})", seq)
        if len(state.streams) != self.n_stream:
            return False
        return fill_all(self, state) if seq is None else self._load_sequence(state, seq)

    def _load_sequence(self, state: AttentionState, seq: int) -> bool:
        """Replace ``seq`` by the saved cells, placed as a ubatch would be (windows overwrite).

        Saved state without cells leaves ``seq`` as it is (``strict`` removes it).
        """
        if self.strict:
            self.seq_rm(seq, -1, -1)
        for saved in state.streams:
            if saved is None:
                continue
            self.seq_rm(seq, -1, -1)
            if (saved.owner < 0).any():
                return False
            slot = self.find_slot([(self.stream_of(seq), Tokens(runs_of(saved, seq)))], None)
            if slot is None:
                return False
            self.apply(slot)
        return True

    def state_bytes(self, seq: int, partial: bool) -> int:
        """Bytes of ``seq``'s saved state here."""
        self._cells(f"state_seq_size({seq})", seq)
        return state_bytes(self, seq)
