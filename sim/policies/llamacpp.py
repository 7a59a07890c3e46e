"""What the policies made of llama.cpp's caches have in common.

The caches themselves are those of `sim.llamacpp`, which agree with the engine cell for cell. Here
a serving engine's sequences get llama.cpp sequence ids (the lowest free one), a step becomes a
batch, and cells become reads, copies and shifts.
"""

from __future__ import annotations

import heapq
from abc import abstractmethod
from collections.abc import Callable, Iterable
from collections.abc import Sequence as SequenceOf
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.budget import Budget
from sim.compiled import mypyc_attr
from sim.decode_run import DecodeRun
from sim.errors import IntegrityError
from sim.llamacpp.batch import Batch, Decodes, Refusal
from sim.llamacpp.cells import EMPTY, SHARED
from sim.llamacpp.context import Context
from sim.llamacpp.errors import ContextRefused, EngineAborts
from sim.llamacpp.geometry import CacheGeometry
from sim.llamacpp.kv_cache import KVCache
from sim.llamacpp.placed import Placed
from sim.llamacpp.recurrent import RecurrentCache
from sim.llamacpp.search import largest_free_run
from sim.llamacpp.sizes import MAX_SEQ, ContextParams
from sim.llamacpp.state import SavedState
from sim.llamacpp.ubatch import split_singles
from sim.owners import FREE, UNUSED
from sim.owners import SHARED as SEVERAL
from sim.policies.base import HandedOver
from sim.policies.llamacpp_geometry import largest_context
from sim.policies.llamacpp_ops import LlamaOperations
from sim.policies.llamacpp_pending import Owed, Served
from sim.policies.llamacpp_reads import Scans
from sim.policies.llamacpp_run import LlamaRun, Rise, n_kv_of_run, rise_of_run
from sim.policies.llamacpp_usage import usage_of_cells, usage_of_states
from sim.schedulers.batch import DecodeBatch
from sim.schedulers.runs import parts_of
from sim.sequence import Sequence
from sim.step import Cells, Placement, Run, Step
from sim.usage import Usage
from workloads.errors import InputError

CACHE_NAMES = {"kv": "all layers", "base": "full attention", "swa": "sliding window"}
STATES_NAME = "recurrent states"
NEVER = 1 << 60
"""More steps than any run has, more cells than any cache."""


@mypyc_attr(allow_interpreted_subclasses=True)
class LlamaPolicy(LlamaOperations):
    """A context of llama.cpp as a policy; subclasses say which caches it has.

    Room is promised by counting: a batch that does not fit as a whole is cut into smaller
    ubatches, down to single tokens, for which any free cell will do. Recurrent states never lack
    room: there is one for every sequence id.
    """

    can_fork = True

    def __init__(self, budget: Budget, options: Any = None) -> None:
        super().__init__(budget, options)
        self.sequences = self.sequences_of_options()
        if self.sequences > MAX_SEQ:
            raise InputError(
                f"{self.name}: max_seqs: expected at most {MAX_SEQ} (LLAMA_MAX_SEQ), "
                f"got {self.sequences}"
            )
        self.ubatch = self.ubatch_of_options() or budget.max_batched_tokens
        try:
            self.context = self.make_context(self.geometry())
        except (ContextRefused, EngineAborts) as error:
            raise InputError(f"{self.name}: {error}") from error
        self.memory = self.context.memory
        self.caches: list[KVCache] = list(self.context.attention.values())
        self.states = self.context.recurrent
        snapshots = 0 if self.states is None else self.states.n_rs_seq
        if self.ubatch <= snapshots + 1 and snapshots:
            raise InputError(
                f"{self.name}: ubatch: expected more than snapshots + 1 = {snapshots + 1} tokens, "
                f"got {self.ubatch}"
            )
        self._smallest_ubatch = snapshots + 2 if snapshots else 1
        streams = self.caches[0].n_stream if self.caches else 1
        # The engine's way of splitting where each sequence has cells of its own.
        self._sequential = not self.caches or streams > 1
        names = [cache.name for cache in self.caches] + [STATES_NAME]
        serving = [names[self.cache_of(group)] for group in range(len(self.groups))]
        self._scans = Scans(self.groups, serving, streams == 1, snapshots)
        served = {
            cache.name: [
                Served(index, self.cell_bytes[index], self.groups[index].k_bytes(budget.kv_type_k))
                for index in self._groups_of(cache.name)
            ]
            for cache in self.caches
        }
        self._owed = Owed(served, {cache.name: cache.size for cache in self.caches})
        self._bytes_per_cell = {
            name: sum(each.cell_bytes for each in groups) for name, groups in served.items()
        }
        keeper = self.caches[0] if self.caches else self.states
        assert keeper is not None
        self._keeper: KVCache | RecurrentCache = keeper
        """A cache that forgets no position by itself."""
        self._shared = self.caches[0].streams[0] if self.caches and streams == 1 else None
        """Its cells, where all sequences share them."""
        self._ids: dict[int, int] = {}
        self._free_ids = list(range(self.sequences))
        self._members = np.empty(0, np.intp)
        self._members_of: tuple[object, int] = (None, 0)
        self._batch: dict[int, int] = {}
        self._batched = 0
        self._decoding: SequenceOf[Sequence] = ()
        """Who has one token each on the batch, beside what ``_batch`` says."""
        self._swapped: dict[int, SavedState] = {}
        self._drafts = 0
        self.make_room: Callable[[], bool] = lambda: False
        """Called when a batch finds no place as it is; whether it has emptied any cells."""

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
            n_batch=max(cells, self.sequences),
            n_ubatch=self.ubatch,
            n_seq_max=self.sequences,
            type_k=self.budget.kv_type_k,
            type_v=self.budget.kv_type_v,
            flash_attn=True,
            **chosen,
        )

    def ubatch_of_options(self) -> int:
        """Tokens of a physical batch; 0 for the whole step."""
        return int(self.options.ubatch)

    def sequences_of_options(self) -> int:
        """Sequence ids of the context."""
        return self.budget.max_seqs

    def make_context(self, geometry: CacheGeometry) -> Context:
        """The largest context that the bytes give."""
        in_full = self.budget.bytes // max(1, sum(self.cell_bytes))
        return largest_context(
            self.name, geometry, self.params, self.budget.bytes, self.sequences, in_full
        )

    # The scheduler's side.

    def can_ever_hold(self, seq: Sequence) -> bool:
        """Whether the full cache has a cell for every token, and for drafts behind the last."""
        return not self.caches or self._most_of(seq) <= self.caches[0].size

    def _most_of(self, seq: Sequence) -> int:
        """Cells that ``seq`` will need at the most in a cache that keeps all of its tokens."""
        return max(seq.limit, min(seq.limit - 1 + self._drafts, self.budget.max_model_len))

    def can_admit(self, seq: Sequence, hit: int) -> bool:
        """Whether a sequence id is free."""
        return seq.id in self._ids or bool(self._free_ids)

    def stays_refused(self, seq: Sequence) -> bool:
        """While others decode they take cells and give none back, nor their ids.

        A context shift, which does, ends a run of steps. Where a saved state found no place among
        enough free cells, it may find one later.
        """
        saved = self._swapped.get(seq.id)
        return saved is None or self._free_cells(-1) < saved.cells

    def would_refuse(self, seq: Sequence, n: int, decoding: int) -> bool:
        """Without an id, or where all share the cells without enough of these."""
        if not self.can_admit(seq, 0):
            return True
        return self._shared is not None and self._free_cells(-1) - decoding < n

    def allocate(self, seq: Sequence, n: int, hit: int = 0) -> bool:
        """Put ``n`` tokens on the batch, if the cells they need are free."""
        own = self._ids.get(seq.id, -1)
        if own < 0 and not self._free_ids:
            return False
        if self._free_cells(own) < n:
            return False
        if own < 0:
            own = self._open(seq.id)
        batch = self._batch
        batch[own] = batch.get(own, 0) + n
        self._batched += n
        return True

    def allocate_each(self, seqs: SequenceOf[Sequence]) -> bool:
        """Where all share the cells, it is enough to count them."""
        if (self.caches and self.caches[0].n_stream > 1) or self._free_cells(-1) < len(seqs):
            return False
        self._decoding = seqs
        return True

    def _open(self, seq: int) -> int:
        """Give ``seq`` the lowest free id, or the one it has."""
        if seq not in self._ids:
            self._ids[seq] = heapq.heappop(self._free_ids)
        return self._ids[seq]

    def _close(self, seq: int) -> None:
        heapq.heappush(self._free_ids, self._ids.pop(seq))

    def _free_cells(self, own: int) -> int:
        """Cells of the full cache that the batch has not spoken for, for one sequence id."""
        if not self.caches:
            return NEVER
        cache = self.caches[0]
        if cache.n_stream == 1:
            return cache.size - cache.streams[0].used - self._batched - len(self._decoding)
        if own < 0:
            return cache.size
        return cache.size - cache.streams[own].used - self._batch.get(own, 0)

    def release(self, seq: Sequence) -> None:
        """Remove the sequence, from the batch too, and give its id back."""
        own = self._ids.get(seq.id)
        if own is None:
            self._swapped.pop(seq.id, None)
        else:
            self._batched -= self._batch.pop(own, 0)
            self.memory.seq_rm(own, -1, -1)
            self._close(seq.id)

    def commit(self, step: Step) -> Placement:
        """Carry out pending work, split the batch and find cells for all of it.

        Where the engine takes sequences into one ubatch only while their ids follow one another,
        the batch is made in the order of the ids, as llama-server goes through its slots.
        """
        if self.context.has_pending():
            self._owed.add(self.memory.update(), self._copies, self._shifts)
        if self._swapped:
            for seq, _, _ in step.runs:
                self._swapped.pop(seq.id, None)
        batch = self._batch_of(step.runs)
        self._batch.clear()
        self._batched = 0
        self._decoding = ()
        placed, failures = self._place(batch)
        placement = self.placed(step, self._scans.of(placed))
        placement.passes = len(placed.ubatches)
        placement.failures = failures
        return placement

    def _batch_of(self, runs: SequenceOf[Run]) -> Batch:
        """``runs`` as the engine's batch: those in front that decode as arrays, where they can be.

        Each sequence has one run.
        """
        batch, apart = parts_of(runs)
        decodes = None
        if self._shared is not None and batch is not None and batch.size:
            ranks = [batch[-1].rank, *[run[0].rank for run in apart]]
            if ranks == sorted(ranks):
                members = self._own(batch)
                decodes = self._decodes(members)
        if decodes is None:
            apart = runs
        ids = self._ids
        own = [ids[run[0].id] for run in apart]
        firsts = self._keeper.next_positions(own)
        rest = [
            ((each,), first, run[2]) for each, first, run in zip(own, firsts, apart, strict=True)
        ]
        if self._sequential:
            rest.sort()
        return Batch(rest, decodes)

    def _decodes(self, own: NDArray[np.intp]) -> Decodes:
        """The next token of each of these ids."""
        if self._shared is not None:
            return Decodes(own, self._shared.refresh().end[own])
        return Decodes(own, np.array(self._keeper.next_positions(own.tolist()), dtype=np.int64))

    def _own(self, seqs: SequenceOf[Sequence]) -> NDArray[np.intp]:
        """The ids of ``seqs``; not to be changed."""
        ids = self._ids
        if not isinstance(seqs, DecodeBatch):
            return np.array([ids[seq.id] for seq in seqs], dtype=np.intp)
        if self._members_of != (seqs, seqs.version):
            self._members = np.array([ids[seq.id] for seq in seqs], dtype=np.intp)
            self._members_of = (seqs, seqs.version)
        return self._members

    def _place(self, batch: Batch) -> tuple[Placed, int]:
        """Places of all tokens, and how many sizes of ubatches were tried in vain."""
        failures, ubatch = 0, self.ubatch
        while True:
            placed = self.memory.place(batch, ubatch)
            if not isinstance(placed, Refusal):
                return placed, failures
            failures += 1
            closed = self.memory.optimize()
            self._owed.add(closed, self._copies, self._shifts)
            if closed.moves or self.make_room():
                continue
            if ubatch == self._smallest_ubatch:
                raise IntegrityError(f"{self.name}: {batch.n_tokens} tokens promised, no room")
            ubatch = max(self._smallest_ubatch, ubatch // 2)

    def plan_run(self, seqs: SequenceOf[Sequence], steps: int) -> DecodeRun | None:
        """The engine's decodes planned at once; None where the next has to be made singly."""
        steps = min(steps, self.steps_until_shift(seqs))
        if len(seqs) > self.ubatch or steps < 1 or self.context.has_pending():
            return None
        own = self._own(seqs)
        if self._sequential:
            own = np.sort(own)
        plan = self.memory.plan_decode_run(self._decodes(own), steps)
        steps = min([run.steps for run in plan.values()])
        if not steps:
            return None
        ubatches = split_singles(own.tolist(), True) if self._sequential else None
        widths = [own.size] if ubatches is None else [len(each) for each in ubatches]
        n_kv = {c.name: n_kv_of_run(c, plan[c.name], steps, ubatches) for c in self.caches}
        reads = self._scans.of_run(widths, n_kv)
        rises = [rise_of_run(c, plan[c.name], steps) for c in self.caches]
        if self.states is not None:
            rises.append(Rise())
        return LlamaRun(
            steps,
            len(widths),
            reads,
            self.usage(),
            rises,
            partial(self.memory.apply_decode_run, plan),
        )

    def steps_until_shift(self, seqs: SequenceOf[Sequence]) -> int:
        """Decode steps before a sequence outgrows its window and has to be shifted."""
        del seqs
        return NEVER

    def speculate(self, tokens: int, lookahead: int = 0) -> None:
        """States can be taken back to a snapshot; a draft model has a context of its own."""
        kept = tokens if self.states is None else self.states.n_rs_seq
        if kept < tokens:
            raise InputError(
                f"speculation: {self.name}.snapshots: expected at least {tokens}, the drafted"
                f" tokens, so that states can be taken back; got {kept}"
            )
        self._drafts = tokens

    def take_back(self, seq: Sequence, n: int) -> None:
        """``seq_rm`` of the last positions, which frees their cells."""
        own = self._ids[seq.id]
        if not self.memory.seq_rm(own, self._keeper.seq_pos_max(own) + 1 - n, -1):
            raise IntegrityError(f"{self.name}: {n} tokens of {seq!r} cannot be taken back")

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
        fits = self._free_cells(-1) >= saved.cells and self.restore(saved, seq.id)
        return saved.nbytes if fits else None

    def hand_over(self, seq: Sequence) -> HandedOver:
        """``llama_state_seq_get_data``."""
        saved = self.context.state_seq_save(self._ids[seq.id])
        return HandedOver(saved, saved.nbytes)

    def take_over(self, seq: Sequence, handed: HandedOver) -> None:
        """The state waits on the host, as if it had been saved here."""
        self._swapped[seq.id] = handed.state

    # Questions.

    def cache_of(self, group: int) -> int:
        """Windowed layers are served by the second cache, where there is one; states come last."""
        kind = self.groups[group].kind
        if kind == "recurrent":
            return len(self.caches)
        return len(self.caches) - 1 if kind in ("swa", "chunked") else 0

    def _groups_of(self, cache: str) -> list[int]:
        return [
            index
            for index, group in enumerate(self.groups)
            if group.kind != "recurrent" and self.caches[self.cache_of(index)].name == cache
        ]

    def usage(self) -> tuple[Usage, ...]:
        """Per cache. Cells out of every window count as dead until they are overwritten."""
        return tuple([self.usage_of(cache) for cache in self.caches] + self._usage_of_states())

    def usage_of(self, cache: KVCache) -> Usage:
        """How one attention cache is used."""
        return usage_of_cells(cache, len(self._ids), self._bytes_per_cell[cache.name])

    def _usage_of_states(self) -> list[Usage]:
        return [] if self.states is None else [usage_of_states(self.states)]

    def holders(self) -> Iterable[int]:
        """Ids of all sequences that have a llama.cpp sequence id."""
        return self._ids.keys()

    def cache_name(self, cache: int) -> str:
        """By the layers that it serves."""
        return CACHE_NAMES[self.caches[cache].name] if cache < len(self.caches) else STATES_NAME

    def largest_free_run(self, cache: int = 0) -> int:
        """Cells of the longest row of empty cells in one stream."""
        if cache < len(self.caches):
            return max(largest_free_run(stream) for stream in self.caches[cache].streams)
        assert self.states is not None
        return self.states.usage().largest_free_run

    def cells_of(self, seq: Sequence, group: int = 0) -> tuple[Cells, Cells]:
        """Positions as the engine counts them (a context shift moves them), and their cells.

        A recurrent state is one cell, at the last position that it has seen.
        """
        own = self._ids[seq.id]
        if self.groups[group].kind == "recurrent":
            assert self.states is not None
            held = self.states.cells.tails[own]
            n = int(held != EMPTY)
            return np.full(n, self.states.seq_pos_max(own)), np.full(n, held)
        cache = self.caches[self.cache_of(group)]
        positions, cells = cache.cells_of(own)
        order = np.argsort(positions, kind="stable")
        offset = cache.stream_of(own) * cache.size
        return positions[order].astype(np.int64), cells[order].astype(np.int64) + offset

    def owners(self, cache: int = 0) -> Cells:
        """Owner of every cell, stream after stream; UNUSED where a window has passed."""
        names = self._names()
        if cache == len(self.caches):
            assert self.states is not None
            return names[self.states.cells.owner_of_each()]
        which = self.caches[cache]
        owners: Cells = names[np.concatenate([stream.owner for stream in which.streams])]
        if which.window.bounded:
            owners[np.concatenate([stream.dead() for stream in which.streams])] = UNUSED
        return owners

    def owners_at(self, cells: Cells, cache: int = 0) -> Cells:
        """Looks at those cells only where all lie in one stream."""
        if cache == len(self.caches) or self.caches[cache].n_stream > 1:
            return self.owners(cache)[cells]
        which, stream = self.caches[cache], self.caches[cache].streams[0]
        owners: Cells = self._names()[stream.owner[cells]]
        if which.window.bounded:
            owners[stream.dead(cells)] = UNUSED
        return owners

    def _names(self) -> Cells:
        """The sequence that every value of `Cells.owner` stands for."""
        names = np.full(MAX_SEQ + 3, FREE, dtype=np.int64)
        names[SHARED] = SEVERAL
        for seq, own in self._ids.items():
            names[own] = seq
        return names

    def check_integrity(self) -> None:
        """The engine's own bookkeeping, the counters, and no cell of a sequence that is gone."""
        super().check_integrity()
        self.memory.check_integrity()
        known = set(self._ids.values())
        if len(known) + len(self._free_ids) != self.sequences:
            raise IntegrityError(f"{self.name}: a sequence id is lost or given twice")
        for cache in self.caches:
            for stream in cache.streams:
                strangers = set(stream.present()) - known
                if strangers:
                    raise IntegrityError(f"{cache.name}: cells of released ids {strangers}")
        tails = [] if self.states is None else self.states.cells.tails
        if any(tail != EMPTY and own not in known for own, tail in enumerate(tails)):
            raise IntegrityError(f"{self.name}: states of released ids")
