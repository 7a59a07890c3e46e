"""``llama_kv_cache``: streams of cells, where tokens go, and what ``seq_*`` calls do to them."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from sim.llamacpp import sequence_ops as ops
from sim.llamacpp.batch import Batch, Refusal
from sim.llamacpp.cells import EMPTY, Cells, Cellset, Snapshot
from sim.llamacpp.decode_run import DecodeRun, apply_decode_run, plan_decode_run
from sim.llamacpp.errors import EngineAborts, EngineUndefined, StrictRefusal
from sim.llamacpp.integrity import check_cells
from sim.llamacpp.kv_state import load_state, save_state, state_bytes
from sim.llamacpp.memory import CacheUsage, Memory, Placed
from sim.llamacpp.observer import SILENT, Observer
from sim.llamacpp.pending import KShift, StreamCopy, Update, check_shiftable
from sim.llamacpp.placement import Placement, Slot, Step
from sim.llamacpp.search import (
    find_contiguous,
    find_scattered,
    largest_free_run,
    limits_of,
    start_of_search,
    usable,
)
from sim.llamacpp.sizes import CELL_PAD, MAX_SEQ, AttentionRows, CacheBytes, padded
from sim.llamacpp.state import AttentionState, CacheState
from sim.llamacpp.ubatch import Tokens, Ubatch, split_equal, split_simple
from sim.llamacpp.window import UNBOUNDED, Window

Slots = Literal["scattered", "contiguous"]


def position_range(p0: int, p1: int) -> tuple[int, int | None]:
    """A range as the engine takes it: below 0 means from the start, and without end."""
    return max(0, p0), None if p1 < 0 else p1


class KVCache(Memory):
    """One attention cache.

    size: cells of a stream. n_stream: 1, shared by all sequences, or one for each of ``n_seq_max``.
    streams, heads: the cells and the next cell to look at, per stream. Mutated by every call that
    is not a question.
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
        strict: bool = False,
    ) -> None:
        self.name = name
        self.rows = rows
        self.size = size
        self.n_stream = n_stream
        self.n_seq_max = n_seq_max
        self.window = window
        self.slots = slots
        self.strict = strict
        self.observer: Observer = SILENT
        self.streams = [Cells(size) for _ in range(n_stream)]
        self.heads = [0] * n_stream
        self._copies: list[tuple[int, int]] = []

    # ---- questions

    def attention_caches(self) -> dict[str, KVCache]:
        """Itself, by name."""
        return {self.name: self}

    def recurrent_cache(self) -> None:
        """None: this cache has K/V rows only."""
        return

    def stream_of(self, seq: int) -> int:
        """The stream that holds ``seq``."""
        return seq if self.n_stream > 1 else 0

    def _cells(self, call: str, seq: int) -> Cells:
        """The stream of ``seq``, or the failed assertion on ids that have none."""
        known = MAX_SEQ if self.n_stream == 1 else self.n_stream
        if not 0 <= seq < known:
            raise EngineAborts(call, f"GGML_ASSERT(seq_id < seq_to_stream.size() = {known})")
        return self.streams[self.stream_of(seq)]

    def seq_pos_min(self, seq: int) -> int:
        """Lowest position of ``seq``, -1 if none."""
        return self._cells(f"seq_pos_min({seq})", seq).pos_min(seq)

    def seq_pos_max(self, seq: int) -> int:
        """Highest position of ``seq``, -1 if none."""
        return self._cells(f"seq_pos_max({seq})", seq).pos_max(seq)

    def cells_of(self, seq: int) -> tuple[Cellset, Cellset]:
        """(positions, cell indices) of ``seq`` in its stream, in cell order."""
        cells = self._cells(f"cells_of({seq})", seq)
        held = cells.cells_of(seq)
        return cells.pos[held].astype(np.intp), held

    def n_kv(self, streams: list[int]) -> int:
        """Cells, per stream, that the attention of a ubatch in these streams scans.

        ``get_n_kv``: up to the highest used cell, padded, at least one pad, at most all.
        """
        return max(
            min(self.size, max(CELL_PAD, padded(self.streams[s].used_max_p1))) for s in streams
        )

    def usage(self) -> CacheUsage:
        """How full the cache is."""
        used = sum(cells.used for cells in self.streams)
        passed = 0
        if self.window.bounded:
            for cells in self.streams:
                mask = usable(cells, limits_of(cells, self.window), 0, self.size)
                passed += int((mask & (cells.owner != EMPTY)).sum())
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
        placement = Placement(self)
        for k, ubatch in enumerate(ubatches):
            slot = self.find_slot(ubatch.tokens_of(self.n_stream), k)
            if slot is None:
                placement.roll_back()
                return None
            placement.add(self.apply(slot))
        return placement

    def find_slot(self, parts: list[tuple[int, Tokens]], ubatch: int | None) -> Slot | None:
        """Cells for the tokens of each stream, or None. Nothing changes."""
        self.observer.on_find_slot(self, ubatch, [stream for stream, _ in parts])
        find = find_scattered if self.slots == "scattered" else find_contiguous
        found: list[tuple[int, Tokens, Cellset]] = []
        for stream, tokens in parts:
            cells = self.streams[stream]
            start = start_of_search(self.heads[stream], cells.used, tokens.n)
            taken = find(cells, limits_of(cells, self.window), start, tokens.n)
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
        lost: dict[int, int] = {}
        for stream, tokens, taken in slot.parts:
            cells = self.streams[stream]
            step.taken.append(cells.snapshot(taken))
            if self.window.bounded:
                occupied = taken[cells.owner[taken] != EMPTY]
                if occupied.size:
                    lost.update(cells.vacate_single(occupied))
            cells.place(taken, tokens.pos, tokens.owner)
            _note_spans(cells, tokens, taken)
        for seq, highest in sorted(lost.items()):
            self._purge(step, seq, highest)
        for stream, _, taken in slot.parts:
            self.heads[stream] = int(taken[-1]) + 1
        slot.n_kv = self.n_kv([stream for stream, _, _ in slot.parts])
        return step

    def _purge(self, step: Step, seq: int, highest: int) -> None:
        stream = self.stream_of(seq)
        cells = self.streams[stream]
        lowest = cells.pos_min(seq)
        if lowest > highest:
            return
        step.purges = True
        self.observer.on_purge(self, seq, lowest, highest)
        gone = cells.cells_of(seq, max(0, lowest), highest + 1)
        if gone.size:
            step.purged.append((stream, cells.snapshot(gone)))
            self.seq_rm(seq, lowest, highest + 1)

    def plan_decode_run(self, seqs: list[int], firsts: list[int], n: int) -> dict[str, DecodeRun]:
        """See `Memory.plan_decode_run`; a closed form, whatever ``n``."""
        return {self.name: plan_decode_run(self, seqs, firsts, n)}

    def apply_decode_run(self, plan: dict[str, DecodeRun], steps: int) -> None:
        """Carry out the first ``steps`` steps of a plan just made."""
        apply_decode_run(self, plan[self.name], steps)

    # ---- pending work

    def update(self) -> Update:
        """Carry out queued stream copies, then the K-shift, once for all streams."""
        done = Update()
        shifting = any(cells.has_shift for cells in self.streams)
        if shifting:
            check_shiftable(self.name, self.rows)
        for src, dst in self._copies:
            self.observer.on_stream_copy(self, src, dst)
            done.copies.append(StreamCopy(self.name, src, dst, self.size))
        self._copies.clear()
        if shifting:
            self.observer.on_k_shift(self)
            for stream, cells in enumerate(self.streams):
                moved = np.flatnonzero(cells.shift)
                if moved.size:
                    done.shifts.append(KShift(self.name, stream, moved, cells.shift[moved]))
                    cells.shift[moved] = 0
                cells.has_shift = False
        return done

    def has_pending(self) -> bool:
        """Whether copies or a K-shift wait for the next decode."""
        return bool(self._copies) or any(cells.has_shift for cells in self.streams)

    def pending_copies(self) -> list[tuple[int, int]]:
        """(source stream, target stream) of the row copies that wait, in order."""
        return list(self._copies)

    # ---- sequence operations

    def clear(self) -> None:
        """Empty all cells; queued stream copies stay queued, as in the engine (not if strict)."""
        for cells in self.streams:
            cells.clear()
        self.heads = [0] * self.n_stream
        if self.strict:
            self._copies.clear()

    def seq_rm(self, seq: int, p0: int, p1: int) -> bool:
        """Remove ``seq`` from its cells, or with -1 free the cells of everybody. Always True."""
        start, end = position_range(p0, p1)
        if seq == -1:
            for stream, cells in enumerate(self.streams):
                self._lower_head(stream, ops.remove_all(cells, start, end))
            return True
        cells = self._cells(f"seq_rm({seq}, {p0}, {p1})", seq)
        self._lower_head(self.stream_of(seq), ops.remove(cells, seq, start, end))
        return True

    def _lower_head(self, stream: int, freed: int) -> None:
        if freed != -1 and freed < self.heads[stream]:
            self.heads[stream] = freed

    def seq_cp(self, src: int, dst: int, p0: int, p1: int) -> None:
        """Share cells within a stream; between streams, copy all of ``src`` over all of ``dst``.

        Between streams the engine refuses a range that ends or begins inside the stream, and
        ignores any other: even an empty one copies everything (``strict`` refuses those too).
        """
        call = f"seq_cp({src}, {dst}, {p0}, {p1})"
        source = self._cells(call, src)
        target = self._cells(call, dst)
        if source is target:
            if src != dst:
                start, end = position_range(p0, p1)
                ops.add_owner(source, src, dst, start, end)
            return
        if any(0 < p < self.size - 1 for p in (p0, p1)):
            raise EngineAborts(call, "GGML_ASSERT(is_full): only whole streams can be copied")
        if self.strict and (p0 > 0 or 0 <= p1 < self.size - 1):
            raise StrictRefusal(f"{call}: the range would be ignored and the whole stream copied")
        self._copies.append((self.stream_of(src), self.stream_of(dst)))
        ops.copy_sequence(source, src, target, dst)
        self.heads[self.stream_of(dst)] = self.heads[self.stream_of(src)]

    def seq_keep(self, seq: int) -> None:
        """Forget the other sequences of ``seq``'s stream; strict: those of other streams too."""
        cells = self._cells(f"seq_keep({seq})", seq)
        self._lower_head(self.stream_of(seq), ops.keep(cells, seq))
        if self.strict:
            for stream, other in enumerate(self.streams):
                if other is not cells:
                    other.clear()
                    self.heads[stream] = 0

    def seq_add(self, seq: int, p0: int, p1: int, by: int) -> None:
        """Move positions, for all who share the cells; K rows follow at the next decode.

        The head goes to the first cell freed, or to 0.
        """
        cells = self._cells(f"seq_add({seq}, {p0}, {p1}, {by})", seq)
        start, end = position_range(p0, p1)
        if by == 0 or start == end:
            return
        freed = ops.move_positions(cells, seq, start, end, by)
        self.heads[self.stream_of(seq)] = max(freed, 0)

    def seq_div(self, seq: int, p0: int, p1: int, by: int) -> None:
        """Divide positions, for all who share the cells; K rows follow at the next decode.

        The engine lets the pending shift grow by old - new position, the wrong way round for the
        rotation that follows (``llama_kv_cells::pos_div``); strict: new - old.
        """
        call = f"seq_div({seq}, {p0}, {p1}, {by})"
        cells = self._cells(call, seq)
        start, end = position_range(p0, p1)
        if by == 1 or start == end:
            return
        if by <= 0 and cells.cells_of(seq, start, end).size:
            if by == 0:
                raise EngineAborts(call, "SIGFPE: division by zero")
            raise EngineUndefined(f"{call}: positions would become negative in used cells")
        if by > 0:
            ops.divide_positions(cells, seq, start, end, by, 1 if self.strict else -1)

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
        """Restore; see `sim.llamacpp.kv_state.load_state`."""
        state = states.pop(0)
        assert isinstance(state, AttentionState)
        if seq is not None:
            self._cells(f"state_seq_load({seq})", seq)
        return load_state(self, state, seq)

    def state_bytes(self, seq: int, partial: bool) -> int:
        """Bytes of ``seq``'s saved state here."""
        self._cells(f"state_seq_size({seq})", seq)
        return state_bytes(self, seq)

    def snapshot(self) -> Any:
        """All cells of all streams."""
        everything: list[Snapshot] = [
            cells.snapshot(np.arange(self.size)) for cells in self.streams
        ]
        shifts = [(cells.shift.copy(), cells.has_shift) for cells in self.streams]
        return everything, shifts, list(self.heads), list(self._copies)

    def restore(self, snapshot: Any) -> None:
        """Go back to a snapshot."""
        everything, shifts, heads, copies = snapshot
        for cells, before, (shift, has_shift) in zip(self.streams, everything, shifts, strict=True):
            cells.restore(before)
            cells.shift[:] = shift
            cells.has_shift = has_shift
        self.heads = list(heads)
        self._copies = list(copies)


def _note_spans(cells: Cells, tokens: Tokens, taken: Cellset) -> None:
    """Tell the spans of newly placed tokens, and spell out the owners of shared ones."""
    if tokens.one_each:
        cells.spans.append_one_each(tokens.owner, tokens.pos)
        return
    begin = 0
    for seqs, first, n in tokens.runs:
        if len(seqs) > 1:
            cells.share(taken[begin : begin + n], seqs)
        for seq in seqs:
            cells.spans.append(seq, first, n)
        begin += n
