"""What the policies made of llama.cpp's caches have in common.

The caches themselves are those of `sim.llamacpp`, which agree with the engine cell for cell. Here
a serving engine's sequences get llama.cpp sequence ids (the lowest free one), a step becomes a
batch, and cells become reads, copies and shifts.
"""

from __future__ import annotations

import heapq
from abc import abstractmethod
from collections.abc import Iterable
from collections.abc import Sequence as SequenceOf
from typing import Any

import numpy as np

from sim.budget import Budget
from sim.errors import IntegrityError
from sim.llamacpp.batch import Batch, Refusal
from sim.llamacpp.cells import SHARED
from sim.llamacpp.context import Context
from sim.llamacpp.errors import ContextRefused
from sim.llamacpp.geometry import CacheGeometry
from sim.llamacpp.kv_cache import KVCache
from sim.llamacpp.memory import Placed
from sim.llamacpp.sizes import CELL_PAD, MAX_SEQ, ContextParams
from sim.llamacpp.state import SavedState
from sim.policies.base import DecodeRun, Policy, Usage
from sim.policies.llamacpp_ops import LlamaOperations
from sim.policies.llamacpp_run import LlamaRun, dead_cells, live_cells
from sim.sequence import Sequence
from sim.step import Cells, Copy, Placement, Reads, Shift, Step
from workloads.errors import InputError

QUERY_COLUMNS = 64
"""Columns of queries that ggml's CUDA attention kernel puts into one tile."""
CACHE_NAMES = {"kv": "all layers", "base": "full attention", "swa": "sliding window"}
NEVER = 1 << 60
"""More steps than any run has."""


class LlamaPolicy(LlamaOperations, Policy):
    """A context of llama.cpp as a policy; subclasses say which caches it has.

    Room is promised by counting: a batch that does not fit as a whole is cut into smaller
    ubatches, down to single tokens, for which any free cell will do.
    """

    can_fork = True

    def __init__(self, budget: Budget, options: Any = None) -> None:
        super().__init__(budget, options)
        if budget.max_seqs > MAX_SEQ:
            raise InputError(
                f"{self.name}: max_seqs: expected at most {MAX_SEQ} (LLAMA_MAX_SEQ), "
                f"got {budget.max_seqs}"
            )
        self.ubatch = self.ubatch_of_options() or budget.max_batched_tokens
        self.context = self._largest_context()
        self.memory = self.context.memory
        self.caches: list[KVCache] = list(self.memory.attention_caches().values())
        self._ids: dict[int, int] = {}
        self._free_ids = list(range(budget.max_seqs))
        self._next: dict[int, int] = {}
        self._batch: dict[int, int] = {}
        self._swapped: dict[int, SavedState] = {}

    # Layout: what subclasses say.

    @abstractmethod
    def geometry(self) -> CacheGeometry:
        """The caches' layers."""

    @abstractmethod
    def params(self, cells: int) -> ContextParams:
        """The context with ``cells`` cells in its full cache."""

    def params_of(self, cells: int, **chosen: Any) -> ContextParams:
        """Parameters that the budget decides, and those that ``chosen`` adds."""
        return ContextParams(
            n_ctx=cells,
            n_batch=max(cells, self.budget.max_seqs),
            n_ubatch=self.ubatch,
            n_seq_max=self.budget.max_seqs,
            type_k=self.budget.kv_type_k,
            type_v=self.budget.kv_type_v,
            flash_attn=True,
            **chosen,
        )

    def ubatch_of_options(self) -> int:
        """Tokens of a physical batch; 0 for the whole step."""
        return int(self.options.ubatch)  # type: ignore[union-attr]

    def _largest_context(self) -> Context:
        """The context with the most cells that fits into the budget, in steps of a pad."""
        geometry = self.geometry()

        def context(pads: int) -> Context:
            try:
                return Context(geometry, self.params(pads * CELL_PAD))
            except ContextRefused as error:
                raise InputError(f"{self.name}: {error}") from error

        def fits(pads: int) -> bool:
            parts = context(pads).memory_breakdown().values()
            return sum(part.total for part in parts) <= self.budget.bytes

        smallest = -(-self.budget.max_seqs // CELL_PAD)
        if not fits(smallest):
            raise InputError(
                f"{self.name}: {self.budget.bytes} bytes of K/V memory: expected at least those "
                f"of {smallest * CELL_PAD} cells, the smallest context"
            )
        low, high = smallest, smallest * 2
        while fits(high):
            low, high = high, high * 2
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if fits(middle) else (low, middle)
        return context(low)

    # The scheduler's side.

    def can_ever_hold(self, seq: Sequence) -> bool:
        """Whether the full cache has a cell for every token."""
        return seq.limit <= self.caches[0].size

    def can_admit(self, seq: Sequence, hit: int) -> bool:
        """Whether a sequence id is free."""
        return seq.id in self._ids or bool(self._free_ids)

    def allocate(self, seq: Sequence, n: int, hit: int = 0) -> bool:
        """Put ``n`` tokens on the batch, if the cells they need are free."""
        own = self._ids.get(seq.id, -1)
        if own < 0 and not self._free_ids:
            return False
        if self._free_cells(own) < n:
            return False
        if own < 0:
            own = self._open(seq.id)
        self._batch[own] = self._batch.get(own, 0) + n
        return True

    def _open(self, seq: int) -> int:
        """Give ``seq`` the lowest free id, or the one it has."""
        if seq not in self._ids:
            self._ids[seq] = heapq.heappop(self._free_ids)
            self._next[seq] = 0
        return self._ids[seq]

    def _close(self, seq: int) -> None:
        heapq.heappush(self._free_ids, self._ids.pop(seq))
        del self._next[seq]

    def _free_cells(self, own: int) -> int:
        """Cells of the full cache that the batch has not spoken for, for one sequence id."""
        cache = self.caches[0]
        if cache.n_stream == 1:
            return cache.size - cache.streams[0].used - sum(self._batch.values())
        if own < 0:
            return cache.size
        return cache.size - cache.streams[own].used - self._batch.get(own, 0)

    def release(self, seq: Sequence) -> None:
        """Remove the sequence, from the batch too, and give its id back."""
        own = self._ids.get(seq.id)
        if own is None:
            self._swapped.pop(seq.id, None)
        else:
            self._batch.pop(own, None)
            self.memory.seq_rm(own, -1, -1)
            self._close(seq.id)

    def commit(self, step: Step) -> Placement:
        """Carry out pending work, split the batch and find cells for all of it."""
        self._take_pending()
        runs = []
        for seq, _, n in step.runs:
            runs.append(((self._ids[seq.id],), self._next[seq.id], n))
            self._next[seq.id] += n
            self._swapped.pop(seq.id, None)
        self._batch.clear()
        placed, failures = self._place(Batch(runs))
        placement = self.placed(step, self._reads(placed))
        placement.passes = len(placed.ubatches)
        placement.failures = failures
        return placement

    def _place(self, batch: Batch) -> tuple[Placed, int]:
        """Places of all tokens, and how many sizes of ubatches were tried in vain."""
        failures, ubatch = 0, self.ubatch
        while True:
            placed = self.memory.place(batch, ubatch)
            if not isinstance(placed, Refusal):
                return placed, failures
            if ubatch == 1:
                raise IntegrityError(f"{self.name}: {batch.n_tokens} tokens promised, no room")
            failures += 1
            ubatch = max(1, ubatch // 2)

    def _take_pending(self) -> None:
        """Turn the caches' pending work into copies and shifts of the step."""
        names = [cache.name for cache in self.caches]
        update = self.memory.update()
        for copy in update.copies:
            for group in self._groups_of(copy.cache):
                cells = np.arange(copy.cells, dtype=np.int64)
                size = copy.cells * self.cell_bytes[group]
                src, dst = copy.src * copy.cells + cells, copy.dst * copy.cells + cells
                self._copies.append(Copy("stream", group, src, dst, size))
        for shift in update.shifts:
            offset = shift.stream * self.caches[names.index(shift.cache)].size
            for group in self._groups_of(shift.cache):
                k_bytes = self.groups[group].k_bytes(self.budget.kv_type_k)
                self._shifts.append(
                    Shift(
                        group,
                        shift.cells + offset,
                        shift.amounts.astype(np.int64),
                        shift.cells.size * k_bytes,
                    )
                )

    def _reads(self, placed: Placed) -> tuple[Reads, ...]:
        """A ubatch's attention scans ``n_kv`` cells, and every token scores all of them."""
        scans = {
            name: [
                (len(u.seq_ids), u.n_tokens, s.n_kv)
                for u, s in zip(placed.ubatches, slots, strict=True)
            ]
            for name, slots in placed.slots.items()
        }
        states = sum(len(ubatch.seq_ids) for ubatch in placed.ubatches)
        reads = []
        for index, group in enumerate(self.groups):
            if group.kind == "recurrent":
                reads.append(Reads(states, 0, 0))
                continue
            cache = self.caches[self.cache_of(index)]
            passes = scans[cache.name]
            cells = sum(self.scans_of(index, seqs) * n_kv for seqs, _, n_kv in passes)
            reads.append(Reads(cells, sum(tokens * n_kv for _, tokens, n_kv in passes), 0))
        return tuple(reads)

    def scans_of(self, group: int, sequences: int) -> int:
        """How often a layer group's attention reads its ``n_kv`` cells for so many sequences.

        Sequences of one stream share the cells of a ubatch: ggml's CUDA kernel reads them once for
        each 64 columns of queries, which are tokens times query heads of a K/V head, heads taken
        by 8, 4, 2 or 1 (``ggml-cuda/fattn.cu``, ``switch_ncols2`` and ``switch_ncols1``).
        """
        if self.caches[0].n_stream > 1:
            return sequences
        spec = self.groups[group]
        per_head = spec.heads // spec.kv_heads
        taken = next(heads for heads in (8, 4, 2, 1) if per_head % heads == 0)
        return -(-sequences // (QUERY_COLUMNS // taken))

    def plan_run(self, seqs: SequenceOf[Sequence], steps: int) -> DecodeRun | None:
        """The engine's decodes planned at once; None where the next has to be made singly."""
        own = [self._ids[seq.id] for seq in seqs]
        steps = min(steps, self.steps_until_shift(seqs))
        if len(seqs) > self.ubatch or steps < 1:
            return None
        plan = self.context.plan_decode_run(own, steps)
        return LlamaRun(self, list(seqs), plan) if plan else None

    def steps_until_shift(self, seqs: SequenceOf[Sequence]) -> int:
        """Decode steps before a sequence outgrows its window and has to be shifted."""
        del seqs
        return NEVER

    def advance(self, seqs: Iterable[Sequence], steps: int) -> None:
        """The sequences have taken ``steps`` decode steps of a plan."""
        for seq in seqs:
            self._next[seq.id] += steps

    def fork(self, parent: Sequence, child: Sequence) -> bool:
        """``seq_cp`` of all positions; without a free id there is no room."""
        if not self._free_ids:
            return False
        self.seq_cp(parent.id, child.id, -1, -1)
        return True

    def swap_out(self, seq: Sequence) -> int:
        """``llama_state_seq_save``, then ``seq_rm``; the bytes of the state."""
        saved = self.context.state_seq_save(self._ids[seq.id])
        self.release(seq)
        self._swapped[seq.id] = saved
        return saved.nbytes

    def swap_in(self, seq: Sequence) -> int | None:
        """``llama_state_seq_load`` into a free id; None where there is no room.

        The host keeps its copy until the sequence really runs.
        """
        saved = self._swapped[seq.id]
        # Cells promised to the batch are still empty, but not to be had.
        fits = self._free_cells(-1) >= seq.computed and self.restore(saved, seq.id)
        return saved.nbytes if fits else None

    # Questions.

    def cache_of(self, group: int) -> int:
        """Windowed layers are served by the second cache, where there is one."""
        windowed = self.groups[group].kind in ("swa", "chunked")
        return len(self.caches) - 1 if windowed else 0

    def _groups_of(self, cache: str) -> list[int]:
        return [
            index
            for index, group in enumerate(self.groups)
            if group.kind != "recurrent" and self.caches[self.cache_of(index)].name == cache
        ]

    def bytes_per_cell(self, cache: KVCache) -> int:
        """K and V of one cell over all layers that the cache serves."""
        return sum(self.cell_bytes[group] for group in self._groups_of(cache.name))

    def usage(self) -> tuple[Usage, ...]:
        """Per cache. Cells out of every window count as dead until they are overwritten."""
        return tuple(self.usage_of(cache) for cache in self.caches)

    def usage_of(self, cache: KVCache) -> Usage:
        """How one cache is used; cells of a stream that its sequence will not need are internal."""
        capacity = cache.size * cache.n_stream
        used = sum(stream.used for stream in cache.streams)
        shared = sum(stream.n_shared for stream in cache.streams)
        live = sum(live_cells(cache, stream) for stream in cache.streams)
        dedicated = 0
        if cache.n_stream > 1:
            dedicated = len(self._ids) * cache.size - used
        return Usage(
            capacity=capacity,
            live=live,
            reserved=0,
            internal=used - live + dedicated,
            free=capacity - used - dedicated,
            external=0,
            shared=min(shared, live),
            cell_bytes=self.bytes_per_cell(cache),
        )

    def holders(self) -> Iterable[int]:
        """Ids of all sequences that have a llama.cpp sequence id."""
        return self._ids.keys()

    def cache_name(self, cache: int) -> str:
        """By the layers that it serves."""
        return CACHE_NAMES[self.caches[cache].name]

    def largest_free_run(self, cache: int = 0) -> int:
        """Cells of the longest row of empty cells in one stream."""
        return self.caches[cache].usage().largest_free_run

    def cells_of(self, seq: Sequence, group: int = 0) -> tuple[Cells, Cells]:
        """Positions as the engine counts them (a context shift moves them), and their cells."""
        cache = self.caches[self.cache_of(group)]
        own = self._ids[seq.id]
        positions, cells = cache.cells_of(own)
        order = np.argsort(positions, kind="stable")
        offset = cache.stream_of(own) * cache.size
        return positions[order].astype(np.int64), cells[order].astype(np.int64) + offset

    def owners(self, cache: int = 0) -> Cells:
        """Owner of every cell, stream after stream; -3 where a window has passed."""
        which = self.caches[cache]
        names = np.full(MAX_SEQ + 3, -1, dtype=np.int64)
        names[SHARED] = -2
        for seq, own in self._ids.items():
            names[own] = seq
        owners: Cells = names[np.concatenate([stream.owner for stream in which.streams])]
        owners[np.concatenate([dead_cells(which, stream) for stream in which.streams])] = -3
        return owners

    def check_integrity(self) -> None:
        """The engine's own bookkeeping, the counters, and no cell of a sequence that is gone."""
        super().check_integrity()
        self.memory.check_integrity()
        known = set(self._ids.values())
        if len(known) + len(self._free_ids) != self.budget.max_seqs:
            raise IntegrityError(f"{self.name}: a sequence id is lost or given twice")
        for cache in self.caches:
            for stream in cache.streams:
                strangers = set(stream.present()) - known
                if strangers:
                    raise IntegrityError(f"{cache.name}: cells of released ids {strangers}")
