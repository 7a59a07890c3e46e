"""Streams of cells: what ``seq_*`` calls do to them, and the row work that they leave behind."""

from __future__ import annotations

from typing import Any

import numpy as np

from sim.llamacpp import sequence_ops as ops
from sim.llamacpp.cells import Cells, Snapshot
from sim.llamacpp.errors import EngineAborts, EngineUndefined, StrictRefusal
from sim.llamacpp.memory import Memory
from sim.llamacpp.observer import SILENT, Observer
from sim.llamacpp.pending import KShift, StreamCopy, Update, check_shiftable
from sim.llamacpp.sizes import MAX_SEQ, AttentionRows
from sim.llamacpp.window import Window


def position_range(p0: int, p1: int) -> tuple[int, int | None]:
    """A range as the engine takes it: below 0 means from the start, and without end."""
    return max(0, p0), None if p1 < 0 else p1


class Streams(Memory):
    """The cells of one attention cache, in one stream for all of ``n_seq_max`` or one for each.

    size: cells of a stream. streams, heads: the cells and the next cell to look at, per stream.
    """

    def __init__(
        self,
        name: str,
        rows: AttentionRows,
        *,
        size: int,
        n_stream: int,
        n_seq_max: int,
        window: Window,
        strict: bool,
    ) -> None:
        self.name = name
        self.rows = rows
        self.size = size
        self.n_stream = n_stream
        self.n_seq_max = n_seq_max
        self.strict = strict
        self.observer: Observer = SILENT
        self.window = window
        shared = n_stream == 1
        self.streams = [Cells(size, window, -1 if shared else seq) for seq in range(n_stream)]
        self.heads = [0] * n_stream
        self._copies: list[tuple[int, int]] = []

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

    def next_positions(self, seqs: list[int]) -> list[int]:
        """See `Memory.next_positions`; ids that this cache cannot know are not looked for."""
        if self.n_stream > 1:
            return super().next_positions(seqs)
        following: list[int] = (self.streams[0].refresh().end[seqs]).tolist()
        return following

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

    # ---- going back

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
            for seq in cells.present():
                cells.has_changed(seq)
            cells.shift[:] = shift
            cells.has_shift = has_shift
        self.heads = list(heads)
        self._copies = list(copies)
