"""`paged`: block tables over one pool of blocks, with a prefix cache.

vLLM 0.19's block manager (`sim.paging`) behind the policy interface, and what came with the
PagedAttention paper and vLLM v0: forks with copy-on-write, swapping.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from collections.abc import Sequence as SequenceOf
from math import lcm
from typing import ClassVar

import numpy as np

from sim.budget import Budget
from sim.compiled import mypyc_attr
from sim.decode_run import DecodeRun
from sim.errors import IntegrityError
from sim.paging.coordinator import Hit
from sim.paging.groups import Group
from sim.paging.growth import GrowingRun
from sim.paging.holding import Holding
from sim.paging.manager import MISS, BlockManager
from sim.paging.occupancy import Occupancy, Totals, final_length
from sim.paging.owners import Map, owners_of
from sim.paging.reads import reads_of_step
from sim.paging.refusals import Refusal, Writers
from sim.paging.run import due_in
from sim.paging.spec import Layout, layout_of
from sim.paging.window_run import Layers, WindowRun
from sim.policies.paged_ops import PagedOperations
from sim.policies.paged_options import PagedOptions
from sim.schedulers.batch import DecodeBatch
from sim.schedulers.runs import number_of, parts_of
from sim.sequence import Sequence, Status
from sim.step import Cells, Copy, Placement, Reads, Run, Step
from sim.usage import Usage
from sim.work import size_of
from workloads.errors import InputError


@mypyc_attr(allow_interpreted_subclasses=True)
class Paged(PagedOperations):
    """Blocks of ``block_size`` tokens, taken when a token needs one and shared by equal prefixes.

    The bytes are divided as vLLM does it (`sim.paging.spec.layout_of`): the layers of every kind
    are split into groups with equally many layers, each with a block table of its own, and all
    take their blocks from one pool of ``bytes // block bytes`` blocks, of which block 0 stays
    empty. Layers with a sliding window give back the blocks that fell out of it, so they hold
    little, but a prompt is only admitted if it would fit with all its blocks.
    """

    name = "paged"
    can_fork: ClassVar[bool] = True

    Options: ClassVar[type[PagedOptions]] = PagedOptions

    options: PagedOptions

    def __init__(
        self, budget: Budget, options: PagedOptions | None = None, layout: Layout | None = None
    ) -> None:
        """``layout`` overrides how the bytes of ``budget`` are divided."""
        super().__init__(budget, options)
        self._continued = 0
        given = self.options
        self.layout = layout or layout_of(
            budget, given.block_size, given.hybrid, given.mamba_cache_mode
        )
        specs = self.layout.groups
        caching = given.prefix_cache and all(spec.mode != "none" for spec in specs)
        self.manager = BlockManager(specs, self.layout.blocks, caching, budget.max_model_len)
        self._state_size = next((s.block_size for s in specs if s.mode == "align"), 0)
        self._serving = tuple(self._group_serving(index) for index in range(len(self.groups)))
        self._occupancy = Occupancy(self.manager, self.layout.block_bytes)
        self._map: Map | None = None
        self.period = _period_of(self.manager.groups)
        self._residues = {
            public: _residues_of(self.manager.groups, self.period, public and caching)
            for public in (False, True)
        }
        self._seqs: dict[int, Sequence] = {}
        self._found: tuple[Sequence | None, Hit] = (None, MISS)
        self._refusal = Refusal(None, 0, 0)
        self._writers = Writers()
        self._wanted: int | None = None
        self._totals = Totals(self.manager)
        self._grows_only = self._totals.enough and [g.kind for g in self.groups] == ["full"]
        self._ahead = self._lookahead = 0
        """Tokens behind its end that a sequence may need room for; those that are no drafts."""
        self._chunks = tuple(g.window for g in self.groups if g.kind == "chunked")
        self._layers = Layers(
            self.manager,
            self._totals,
            self._occupancy,
            self.groups,
            [self.manager.groups[index] for index in self._serving],
        )

    def _group_serving(self, index: int) -> int:
        """The first paged group with layers of the model's layer group ``index``."""
        layers, recurrent = self.groups[index], self.groups[index].kind == "recurrent"
        return next(
            i
            for i, spec in enumerate(self.layout.groups)
            if (spec.kind == "recurrent") == recurrent and layers.layer_ids[0] in spec.layer_ids
        )

    # What the scheduler asks.

    def lookup(self, seq: Sequence) -> int:
        """Tokens of the longest cached prefix, the last token of the sequence left out."""
        hit = self.manager.find(seq.id, seq.path, seq.tokens) if seq.reads_cache else MISS
        self._found = (seq, hit)
        return hit.tokens

    def _hit_of(self, seq: Sequence, tokens: int) -> Hit:
        """What the last lookup found, which was that of ``seq`` if it found anything."""
        if not tokens:
            return MISS
        asked, hit = self._found
        if asked is not seq or hit.tokens != tokens:
            raise IntegrityError(f"{seq!r} takes over {tokens} tokens that were not looked up")
        return hit

    def chunk_of(self, seq: Sequence, computed: int, n: int) -> int:
        """With aligned states a prefill chunk ends at a block boundary, or with the prompt.

        vLLM's ``_mamba_block_aligned_split``.
        """
        size = self._state_size
        if not size or computed >= max(seq.prompt, seq.tokens - 1):
            return n
        last_boundary = seq.tokens - seq.tokens % size
        if computed + n < last_boundary:
            return n - n % size
        return last_boundary - computed if computed < last_boundary else n

    def can_ever_hold(self, seq: Sequence) -> bool:
        """Whether it could be admitted to an empty cache, and brought to its end alone there."""
        usable, groups = self.manager.pool.size - 1, self.manager.groups
        longest = min(final_length(seq) + self._ahead, max(seq.limit, self.budget.max_model_len))
        chunk = self.budget.max_batched_tokens + self._lookahead
        if sum(group.most_blocks(longest, chunk) for group in groups) > usable:
            return False
        if not self.options.reserve_full_isl:
            return True
        return sum(group.first_need([], seq.prompt, 0) for group in groups) <= usable

    def can_admit(self, seq: Sequence, hit: int) -> bool:
        """The gate: there must be blocks for all tokens that the sequence has so far."""
        if not self.options.reserve_full_isl:
            return True
        found = self._hit_of(seq, hit)
        need = self.manager.need(seq.id, hit, seq.tokens, found)
        if need <= self.manager.pool.free:
            return True
        # Who loses a free block of his prefix needs another, and there is one fewer to be had; but
        # windows give blocks back.
        shrinks = found.free if self.manager.frees else 0
        self._refusal = Refusal(seq, need, need - shrinks)
        return False

    def due_residues(self, seq: Sequence) -> Collection[int]:
        """Where a block is begun, where one falls out of a window, where a public one is full."""
        manager, computed = self.manager, seq.computed
        holding = manager.holdings[seq.id]
        if holding.open_tail:
            return range(self.period)
        residues = self._residues[holding.public > computed]
        if holding.drop_at <= computed:
            return residues | {computed % self.period}
        return residues

    def stays_refused(self, seq: Sequence) -> bool:
        """Whether more free blocks are needed than there are, and the need cannot shrink.

        It shrinks when more of the sequence's prefix gets into the cache.
        """
        refusal = self._refusal
        if refusal.seq is not seq or refusal.need > self.manager.pool.size:
            return False
        wanted = refusal.need
        caching = seq.status is not Status.SWAPPED and self.manager.caching and seq.reads_cache
        if caching and self.manager.public_length(seq.id, seq.path):
            wanted = refusal.least
            if wanted <= self.manager.pool.free or self._writers.are_on(seq.path):
                return False
        self._wanted = wanted
        return True

    # What the scheduler does.

    def allocate(self, seq: Sequence, n: int, hit: int = 0) -> bool:
        """Blocks for ``n`` tokens, after those of the prefix that the last lookup found."""
        manager, computed = self.manager, seq.computed
        holding = manager.holdings.get(seq.id)
        if holding is None:
            return self._admit(seq, n, computed + hit, self._hit_of(seq, hit))
        if n == 1 and not self._ahead:
            fits = manager.extend_by_one(holding, computed)
        else:
            fits = manager.extend(holding, computed, n, seq.tokens, self._lookahead)
        if fits:
            self._totals.visited(holding, n)
        return fits

    def _admit(self, seq: Sequence, n: int, computed: int, hit: Hit) -> bool:
        holding = self.manager.admit(seq.id, seq.path, computed, n, seq.tokens, hit)
        if isinstance(holding, int):
            self._refusal = Refusal(seq, holding, holding - hit.free)
            return False
        self._came(seq, holding)
        self._totals.visited(holding, 0)
        return True

    def _came(self, seq: Sequence, holding: Holding) -> None:
        """``seq`` holds something that it did not hold before."""
        self._seqs[seq.id] = seq
        self._totals.came(seq, holding)
        if self.manager.caching:
            self._writers.came(seq, holding)

    def release(self, seq: Sequence) -> None:
        """Free all blocks, the last first; a preempted sequence may find them again."""
        holding = self.manager.holdings.get(seq.id)
        if holding is None:
            self.manager.release(seq.id)
            return
        del self._seqs[seq.id]
        self._totals.left(seq, holding)
        self._writers.left(holding)
        if seq.status is Status.PREEMPTED:
            self.manager.suspend(seq.id, min(max(holding.end, seq.computed), seq.tokens))
        else:
            self.manager.release(seq.id)

    def commit(self, step: Step) -> Placement:
        """Whole blocks are read; shared blocks that are written to were copied."""
        self.settle(step)
        batch, apart = parts_of(step.runs)
        if batch is not None and self._are_everybody(batch.size + len(apart)):
            return self.placed(step, (self._reads_of_everybody(batch, apart),))
        starts, sizes = (
            np.array([(start, n) for _, start, n in step.runs], dtype=np.int64).reshape(-1, 2).T
        )
        specs = self.layout.groups
        reads = tuple(
            reads_of_step(group, specs[serving], starts, starts + sizes)
            for group, serving in zip(self.groups, self._serving, strict=True)
        )
        return self.placed(step, reads)

    def _are_everybody(self, sequences: int) -> bool:
        """Whether so many are all holders, and hold just what they need."""
        return self._grows_only and sequences == len(self._seqs) and not self.manager.open_tails

    def _reads_of_everybody(self, batch: DecodeBatch, apart: SequenceOf[Run]) -> Reads:
        """`reads_of_step` of all holders, from the totals."""
        pairs = batch.context
        for _, start, n in apart:
            pairs += n * start + n * (n + 1) // 2
        entries = self._totals.entries
        return Reads(entries * self.layout.groups[0].block_size, pairs, entries)

    def settle(self, step: Step) -> None:
        """The part of `commit` without which the next step cannot be scheduled."""
        self.manager.step_ends()
        self._totals.stepped(number_of(step.runs))
        if self.manager.moved:
            self._owe_copies()

    def _owe_copies(self) -> None:
        """A copy for every block that was copied before writing, per layer group it holds."""
        for moved in self.manager.moved:
            spec = self.layout.groups[moved.group]
            for index, group in enumerate(self.groups):
                recurrent = group.kind == "recurrent"
                layers = len(set(group.layer_ids).intersection(spec.layer_ids))
                if not layers or recurrent != (spec.kind == "recurrent"):
                    continue
                n = 1 if recurrent else moved.tokens
                size = group.state_bytes if recurrent else n * self.cell_bytes[index]
                source, target = (
                    self._first_cell(moved.group, block) + np.arange(n, dtype=np.int64)
                    for block in (moved.source, moved.target)
                )
                self._copies.append(
                    Copy("cow", index, source, target, size * layers // group.layers)
                )
        self.manager.moved.clear()

    def _first_cell(self, index: int, block: int) -> int:
        spec = self.layout.groups[index]
        size = self._occupancy.block_cells if spec.kind == "recurrent" else spec.block_size
        return (block - 1) * size

    def fork(self, parent: Sequence, child: Sequence) -> bool:
        """All blocks are shared; the last is copied by whoever writes to it first."""
        self.manager.fork(parent.id, child.id, child.path, parent.computed)
        self._came(child, self.manager.holdings[child.id])
        return True

    def swap_out(self, seq: Sequence) -> int:
        """Blocks are swapped as they are, half empty or shared."""
        size = self.held_bytes(seq)
        self.release(seq)
        return size

    def swap_in(self, seq: Sequence) -> int | None:
        """Blocks for what is still needed; one token more must find room too."""
        if not self.manager.restore(seq.id, seq.path, seq.computed):
            need = self.manager.need_to_restore(seq.computed)
            self._refusal = Refusal(seq, need, need)
            return None
        self._came(seq, self.manager.holdings[seq.id])
        return self.held_bytes(seq)

    def hear_late(self) -> None:
        """Full blocks of generated tokens can be found one step later."""
        self.manager.hears_late = True

    def hear_all(self, seq: Sequence) -> None:
        """Its last full block can be found too."""
        holding = self.manager.holdings.get(seq.id)
        if holding is not None and self.manager.caching:
            self.manager.publish(holding, seq.computed)

    def speculate(self, tokens: int, lookahead: int = 0) -> None:
        """Only a table of tokens can be cut; vLLM keeps several states a sequence instead."""
        if any(spec.kind == "recurrent" for spec in self.layout.groups):
            raise InputError(
                f"speculation: {self.name} keeps one recurrent state a sequence of"
                f" {self.budget.model.name}, from which no tokens can be taken back"
            )
        self._ahead, self._lookahead = tokens + lookahead, lookahead
        self._grows_only = False
        self._totals.stop()

    def take_back(self, seq: Sequence, n: int) -> None:
        """Blocks stay for the tokens to come; the prefix cache was not told of drafts."""
        self.manager.holdings[seq.id].end -= n

    def plan_run(self, seqs: SequenceOf[Sequence], steps: int) -> DecodeRun | None:
        """Closed form, but where shared blocks leave windows or states are aligned."""
        wanted, self._wanted = self._wanted, None
        if size_of(seqs) != len(self._seqs):
            return None
        manager, due = self.manager, due_in(self, seqs)
        if self._grows_only and not manager.open_tails:
            run = GrowingRun(manager, self._totals, self._occupancy, seqs, due, steps)
            return run if run.steps else None
        if manager.open_tails or not manager.foreseeable:
            return None
        for chunk in self._chunks:
            steps = min(steps, *(chunk - seq.computed % chunk for seq in seqs))
        plan = WindowRun(self._layers, seqs, due, steps, wanted)
        return plan if plan.steps else None

    # Questions.

    def usage(self) -> tuple[Usage, ...]:
        """One pool; its cells are tokens of one group."""
        if self._totals.enough:
            return (self._totals.usage(self._occupancy),)
        return self.counted_usage()

    def counted_usage(self) -> tuple[Usage, ...]:
        """From the block tables."""
        return (self._occupancy.count(self._seqs.values()),)

    def largest_free_run(self, cache: int = 0) -> int:
        """All that is free: any block will do."""
        del cache
        return self.manager.pool.free * self._occupancy.block_cells

    @property
    def evictions(self) -> int:
        """Blocks taken while others could still have found them.

        Not among them are blocks that nobody but their own sequence could have asked for.
        """
        return self.manager.pool.evictions

    def holders(self) -> Iterable[int]:
        """Ids of all sequences with blocks."""
        return self._seqs.keys()

    def held_bytes(self, seq: Sequence) -> int:
        """Whole blocks, in all groups."""
        holding = self.manager.holdings.get(seq.id)
        if holding is None:
            return 0
        blocks = sum(
            len(group.held(table))
            for group, table in zip(self.manager.groups, holding.tables, strict=True)
        )
        return blocks * self.layout.block_bytes

    def cache_name(self, cache: int) -> str:
        """What the pool is called in pictures."""
        return "block pool"

    def cells_of(self, seq: Sequence, group: int = 0) -> tuple[Cells, Cells]:
        """Positions in blocks, those before the window too while their block is held.

        Of a layer group that is split over several block tables, the cells of its first layers.
        A recurrent state is one cell, at the last position. Cells are counted in tokens of the
        group, block after block, from block 1 on.
        """
        index = self._serving[group]
        spec, table = self.layout.groups[index], self.manager.holdings[seq.id].tables[index]
        _, end = self._occupancy.span_of(seq)
        blocks = np.array(table.blocks, dtype=np.int64)
        if spec.kind == "recurrent":
            return np.array([end - 1]), np.array([self._first_cell(index, table.blocks[-1])])
        positions = np.arange(min(len(blocks) * spec.block_size, end), dtype=np.int64)
        entry, offset = np.divmod(positions, spec.block_size)
        held = blocks[entry] > 0
        cells = (blocks[entry] - 1) * spec.block_size + offset
        return positions[held], cells[held]

    def owners(self, cache: int = 0) -> Cells:
        """Live cells by owner; UNUSED where a held block has no live token."""
        return owners_of(self.manager, self._occupancy, self._seqs)

    def owners_at(self, cells: Cells, cache: int = 0) -> Cells:
        """Looks at the blocks of those cells only, and remembers them for the next time."""
        if self._map is None or self._map.cells is not cells:
            self._map = Map(self.manager, self._occupancy, cells)
        return self._map.draw(self._seqs)

    def check_integrity(self) -> None:
        """Every block is free or held, and holders are counted right."""
        super().check_integrity()
        self.manager.check_integrity()
        if self._seqs.keys() != self.manager.holdings.keys():
            raise IntegrityError("sequences and block tables differ")


def _period_of(groups: Iterable[Group]) -> int:
    """After so many tokens everything that happens to tables of decoding sequences repeats."""
    steps = []
    for group in groups:
        if group.spec.mode != "none":
            steps.append(group.size)
        if group.spec.kind == "chunked" and group.window % group.size:
            steps.append(group.window)
    return lcm(*steps)


def _residues_of(groups: Iterable[Group], period: int, public: bool) -> frozenset[int]:
    """Lengths, modulo ``period``, at which a decoding sequence's tables change.

    ``public``: also where a block becomes full, so that others can find it.
    """
    found: set[int] = set()
    for group in groups:
        if group.spec.mode == "none":
            continue
        found.update(range(0, period, group.size))
        if group.spec.kind == "chunked":
            found.update(range(0, period, group.window))
        elif group.frees:
            found.update(range((group.window - 1) % group.size, period, group.size))
        if public:
            found.update(range(group.size - 1, period, group.size))
    return frozenset(found)
