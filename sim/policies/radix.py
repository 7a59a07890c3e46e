"""`radix`: a tree of cached token runs over a pool of slots, as SGLang keeps it.

SGLang's ``RadixCache`` (`sim.radix`) behind the policy interface.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, NamedTuple

import numpy as np

from sim.budget import Budget
from sim.errors import IntegrityError
from sim.model import LayerGroup
from sim.paging.occupancy import final_length
from sim.paging.reads import reads_of_run, reads_of_step
from sim.paging.run import due_in
from sim.paging.spec import GroupSpec, Layout
from sim.policies.base import Policy
from sim.policies.radix_run import RadixRun, pages_begun, surplus_found
from sim.radix.holding import Holding
from sim.radix.layout import manager_of, pools_of
from sim.radix.node import Node
from sim.radix.owners import owners_of
from sim.radix.windows import Drop, WindowCounts
from sim.reads import attended_in_run
from sim.sequence import Sequence, Status
from sim.step import Cells, Copy, Count, Placement, Reads, Step
from sim.usage import Usage
from workloads.errors import InputError
from workloads.plugins import option


class _Refusal(NamedTuple):
    """Who was refused last, with which hit, and whether for all of its tokens."""

    seq: Sequence | None
    hit: int
    whole: bool


_NONE = _Refusal(None, 0, False)


class Radix(Policy):
    """One slot a token (or pages of several); what is computed stays in a radix tree.

    Prompts enter the tree chunk by chunk as they are computed, outputs when their sequence ends,
    to the token. A sequence locks the path that it runs on; what nobody has locked is free to be
    had, and is evicted leaf by leaf when slots are missing. Layers with a window have slots of
    their own, if there are others beside them; all other layers are kept in full.
    """

    name = "radix"
    can_fork: ClassVar[bool] = True

    @dataclass(frozen=True)
    class Options:
        """How slots are made, found and given up."""

        page_size: int = option(1, "tokens of a page, the unit of allocation and sharing", low=1)
        prefix_cache: bool = option(True, "keep what sequences leave, and let others find it")
        eviction: str = option("lru", "eviction policy that picks the leaf (sim.eviction)")
        reserve_full_isl: bool = option(
            True, "admit a sequence only when there is room for all its tokens, not a first chunk"
        )
        windowed: bool = option(True, "give layers with a window a pool of their own")
        swa_full_tokens_ratio: float = option(
            0.8, "slots of that pool for every slot of the other", low=0.01, high=1
        )

    options: Options

    def __init__(self, budget: Budget, options: Options | None = None) -> None:
        super().__init__(budget, options)
        if any(group.kind == "recurrent" for group in self.groups):
            raise InputError(f"radix: {budget.model.name} has recurrent layers, which it lacks")
        size = self.period = self.options.page_size
        given = self.options
        pools = pools_of(budget, self.groups, size, given.windowed, given.swa_full_tokens_ratio)
        self.manager = manager_of(pools, size, given.eviction, given.prefix_cache)
        self._windows = WindowCounts(self.manager, pools.window) if pools.window else None
        self._cache_of = tuple(int(pools.window > 0 and g.kind == "swa") for g in self.groups)
        self._cells = tuple(
            sum(cell for cell, its in zip(self.cell_bytes, self._cache_of, strict=True) if its == i)
            for i in range(1 + (pools.window > 0))
        )
        specs = tuple(GroupSpec(g.kind, size, g.window, "", g.layer_ids) for g in self.groups)
        self.layout = Layout(specs, pools.pages, size * self._cells[0])
        self._seqs: dict[int, Sequence] = {}
        self._root = self.manager.tree.root
        self._found: tuple[Sequence | None, Node] = (None, self._root)
        self._refusal = _NONE
        self._somebody_waits = False
        # Whole pages are read, so reads have no closed form across the start of a new chunk.
        self._cuts = tuple(g.window for g in self.groups if g.kind == "chunked" and size > 1)
        self._chunks: dict[int, Sequence] = {}
        self._visits = 0

    # What the scheduler asks.

    def lookup(self, seq: Sequence) -> int:
        """Tokens of the longest cached prefix, the last token of the sequence left out."""
        node = self._root
        if self.manager.caching and seq.reads_cache:
            node = self.manager.tree.match(seq.path, seq.tokens - 1)
        self._found = (seq, node)
        return node.end

    def _hit_of(self, seq: Sequence, tokens: int) -> Node:
        """What the last lookup found, which was that of ``seq`` if it found anything."""
        if not tokens:
            return self._root
        asked, node = self._found
        if asked is not seq or node.end != tokens:
            raise IntegrityError(f"{seq!r} takes over {tokens} tokens that were not looked up")
        return node

    def chunk_of(self, seq: Sequence, computed: int, n: int) -> int:
        """No more window slots at once than the budget's steps have tokens."""
        return n if self._windows is None else min(n, self.budget.max_batched_tokens)

    def can_ever_hold(self, seq: Sequence) -> bool:
        """Whether there is a page for every page of it, and enough for the longest chunk."""
        pages = self.manager.pages_for(final_length(seq))
        return pages <= self.manager.pool.size and (
            self._windows is None or self._windows.can_serve(pages, self._longest_chunk(seq))
        )

    def _longest_chunk(self, seq: Sequence) -> int:
        return min(seq.limit, self.budget.max_batched_tokens)

    def can_admit(self, seq: Sequence, hit: int) -> bool:
        """The gate: there must be room for all tokens that the sequence has so far."""
        if not self.options.reserve_full_isl:
            return True
        if self.manager.lacking(self._hit_of(seq, hit), seq.tokens, self._longest_chunk(seq)) <= 0:
            return True
        self._refusal = _Refusal(seq, hit, True)
        return False

    def due_residues(self, seq: Sequence) -> Collection[int]:
        """Where a page is begun."""
        return (0,)

    def stays_refused(self, seq: Sequence) -> bool:
        """Whether neither room nor hit can grow: nothing came into the tree since.

        What is evicted of the hit makes no room for the whole of it.
        """
        refusal = self._refusal
        if refusal.seq is not seq:
            return False
        self._somebody_waits = True
        if seq.status is Status.SWAPPED or not self.manager.caching or not seq.reads_cache:
            return True
        # A hit whose window is evicted no longer keeps its slots from others.
        return not refusal.hit or (refusal.whole and self._windows is None)

    # What the scheduler does.

    def allocate(self, seq: Sequence, n: int, hit: int = 0) -> bool:
        """Pages for ``n`` tokens, after those of the prefix that the last lookup found."""
        manager = self.manager
        holding = manager.holdings.get(seq.id)
        if holding is None:
            node = self._hit_of(seq, hit)
            if not manager.admit(seq.id, seq.path, node, n, final_length(seq)):
                self._refusal = _Refusal(seq, hit, False)
                return False
            self._seqs[seq.id] = seq
            holding = manager.holdings[seq.id]
        else:
            computed = seq.computed
            if not (
                manager.extend_by_one(holding, computed)
                if n == 1
                else manager.extend(holding, computed, n)
            ):
                return False
        self._visits += 1
        if holding.prefilling:
            self._chunks[seq.id] = seq
        return True

    def release(self, seq: Sequence) -> None:
        """Unlock the path; the rest goes into the tree, but that of a preempted sequence is lost.

        SGLang's ``cache_finished_req``, which a retraction calls without inserting.
        """
        holding = self.manager.holdings.get(seq.id)
        if holding is None:
            return
        del self._seqs[seq.id]
        self._chunks.pop(seq.id, None)
        self._visits -= holding.end > seq.computed
        cached = seq.status not in (Status.PREEMPTED, Status.SWAPPED)
        self.manager.leave(seq.id, seq.computed, cached)

    def commit(self, step: Step) -> Placement:
        """Chunks of prompts go into the tree (``cache_unfinished_req``); whole pages are read."""
        manager = self.manager
        for seq in self._chunks.values():
            holding = manager.holdings[seq.id]
            manager.cache(holding, holding.end)
            # A last token that was sampled long ago counts as a decode, as for the scheduler.
            holding.prefilling = holding.end < seq.tokens and not seq.is_decoding
            self._refusal = _NONE
        self._chunks.clear()
        manager.tokens += len(step.runs) - self._visits
        self._visits = 0
        starts, sizes = (
            np.array([(start, n) for _, start, n in step.runs], dtype=np.int64).reshape(-1, 2).T
        )
        reads = tuple(
            reads_of_step(group, spec, starts, starts + sizes)
            for group, spec in zip(self.groups, self.layout.groups, strict=True)
        )
        return self.placed(step, reads)

    def fork(self, parent: Sequence, child: Sequence) -> bool:
        """Full pages are shared, by way of the tree; a page that is not full is copied."""
        holding, size = self.manager.holdings[parent.id], self.options.page_size
        copied = self.manager.fork(
            holding, child.id, child.path, parent.computed, final_length(child)
        )
        if copied is None:
            return False
        self._seqs[child.id] = child
        source, target, n = copied
        offsets = np.arange(n, dtype=np.int64)
        for group, cell_bytes in enumerate(self.cell_bytes if n else ()):
            src, dst = (
                page * size + offsets for page in self._pages_in(group, np.array([source, target]))
            )
            self._copies.append(Copy("cow", group, src, dst, n * cell_bytes))
        return True

    def _pages_in(self, group: int, pages: Cells) -> Cells:
        """The pages of a layer group's cache that belong to ``pages``; -1 for those it gave up."""
        if self._windows is None or not self._cache_of[group]:
            return pages
        return self._windows.pages_of(pages)

    def swap_in(self, seq: Sequence) -> int | None:
        """Pages of its own for all that is still seen, and nothing of it in the tree."""
        if not self.manager.restore(seq.id, seq.path, seq.computed, final_length(seq)):
            self._refusal = _Refusal(seq, 0, True)
            return None
        self._seqs[seq.id] = seq
        self.manager.holdings[seq.id].prefilling = not seq.is_decoding
        return self.held_bytes(seq)

    def plan_run(self, seqs: SequenceOf[Sequence], steps: int) -> RadixRun | None:
        """Closed form: what is taken, given up and evicted follows from the lengths alone."""
        somebody_waits, self._somebody_waits = self._somebody_waits, False
        manager = self.manager
        lengths = np.array([seq.computed for seq in seqs], dtype=np.int64)
        holdings = [manager.holdings[seq.id] for seq in seqs]
        drops: list[Drop] = []
        if self._windows is not None:
            drops = self._windows.drops(holdings, lengths, steps)
            if somebody_waits and drops:
                # What is given up may be what the refused sequence waits for.
                steps = min(steps, drops[0][0])
        for chunk in self._cuts:
            steps = min(steps, *(chunk - seq.computed % chunk for seq in seqs))
        begun = pages_begun(lengths, self.period, steps)
        steps = int(np.searchsorted(begun, manager.full_available, side="right"))
        if self._windows is not None:
            steps = self._windows.steps_with_room(begun[:steps], drops)
        if not steps:
            return None
        return RadixRun(
            manager,
            seqs,
            steps,
            due_in(self, seqs),
            (
                partial(self._reads_foreseen, lengths),
                partial(self._usage_foreseen, holdings, lengths, drops, begun),
            ),
            sorted({step for step, _ in drops}),
            self.usage()[0] if self._windows is None and self.period == 1 else None,
        )

    def _reads_foreseen(self, lengths: Cells, steps: int) -> tuple[Reads, ...]:
        return tuple(
            self._reads_of_run(group, spec, lengths, steps)
            for group, spec in zip(self.groups, self.layout.groups, strict=True)
        )

    def _usage_foreseen(
        self,
        holdings: SequenceOf[Holding],
        lengths: Cells,
        drops: list[Drop],
        begun: Cells,
        steps: int,
    ) -> tuple[Usage, ...]:
        (now, *others), size = self.usage(), self.period
        live = now.live + len(lengths) * np.arange(1, steps + 1, dtype=np.int64)
        free = now.free - begun[:steps] * size
        internal: Count = 0
        if size > 1:
            finals = np.array([holding.final for holding in holdings])
            internal = now.internal + surplus_found(lengths, finals, size, steps)
        reserved: Count = np.asarray(now.capacity - live - free - internal, dtype=np.int64)
        usage = Usage(now.capacity, live, reserved, internal, free, 0, now.shared, now.cell_bytes)
        if self._windows is None:
            return (usage,)
        window = self._windows.usage_of_run(
            others[0], holdings, lengths, drops, usage, begun[:steps]
        )
        return usage, window

    def _reads_of_run(
        self, group: LayerGroup, spec: GroupSpec, lengths: Cells, steps: int
    ) -> Reads:
        if self.period > 1:
            return reads_of_run(group, spec, lengths, steps)
        slots = attended_in_run(group, lengths, steps)
        return Reads(slots, slots, slots)

    # Questions.

    @property
    def evictions(self) -> int:
        """Pages evicted, also those that lost only the slots of their windows."""
        return self.manager.tree.evictions

    def usage(self) -> tuple[Usage, ...]:
        """One pool, or two. What is cached and not locked is free: it can be had at once."""
        manager, size = self.manager, self.options.page_size
        tree, capacity = manager.tree, manager.pool.size * size
        free = manager.pool.all_free * size + tree.evictable
        live, internal = tree.protected + manager.tokens, manager.surplus
        reserved = capacity - free - live - internal
        cell, *others = self._cells
        first = Usage(capacity, live, reserved, internal, free, 0, tree.shared, cell)
        if self._windows is None:
            return (first,)
        return first, self._windows.usage(self._lengths(), reserved, others[0])

    def _lengths(self) -> Iterable[tuple[Holding, int]]:
        """What every sequence holds, and up to which token."""
        return (
            (holding, max(holding.end, self._seqs[owner].computed))
            for owner, holding in self.manager.holdings.items()
        )

    def holders(self) -> Iterable[int]:
        """Ids of all sequences that hold pages."""
        return self._seqs.keys()

    def cache_of(self, group: int) -> int:
        """The pool of layers with a window, or that of all others."""
        return self._cache_of[group]

    def cache_name(self, cache: int) -> str:
        """What the pools are called in pictures."""
        if self._windows is None:
            return "token slots"
        return "window slots" if cache else "full-attention slots"

    def cells_of(self, seq: Sequence, group: int = 0) -> tuple[Cells, Cells]:
        """All positions that have slots, and these; slots are counted page after page."""
        holding, size = self.manager.holdings[seq.id], self.options.page_size
        pages = self._pages_in(group, self.manager.pages_held(holding))
        positions = np.arange(max(holding.end, seq.computed), dtype=np.int64)
        entry, offset = np.divmod(positions, size)
        held = pages[entry] >= 0
        return positions[held], (pages[entry] * size + offset)[held]

    def owners(self, cache: int = 0) -> Cells:
        """Live slots by owner; UNUSED for the rest of a page, FREE where it is only cached."""
        lengths = {
            owner: max(holding.end, self._seqs[owner].computed)
            for owner, holding in self.manager.holdings.items()
        }
        return owners_of(self.manager, lengths, self._windows if cache else None)

    def check_integrity(self) -> None:
        """Pages and locks are counted right, and so are tokens."""
        super().check_integrity()
        self.manager.check_integrity()
        if self._seqs.keys() != self.manager.holdings.keys():
            raise IntegrityError("sequences and holdings differ")
        tokens = sum(end - holding.node.end for holding, end in self._lengths())
        if tokens != self.manager.tokens:
            raise IntegrityError(f"{tokens} tokens in own pages, counted {self.manager.tokens}")
