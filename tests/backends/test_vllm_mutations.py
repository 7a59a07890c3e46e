"""Rules of vLLM's scheduler and block manager, broken one at a time: each must be noticed.

Each mutant patches our objects; its text says which rule of the recordings' description it breaks.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pytest import MonkeyPatch

from backends.conformance import vllm_setup
from backends.conformance.vllm import replay
from sim.paging.coordinator import Coordinator, Hit
from sim.paging.groups import Group
from sim.paging.manager import BlockManager
from sim.paging.pool import BlockPool
from sim.paging.shelves import Shelf
from sim.paging.states import StateGroup
from sim.paging.windows import ChunkGroup, WindowGroup
from sim.policies.paged import Paged
from sim.schedulers import vllm as scheduler_module
from sim.schedulers.queues import FcfsQueue, PriorityQueue
from sim.schedulers.vllm import VllmScheduler
from workloads.prefix import PrefixTree

ROOT = Path(__file__).parents[2]
CORPUS = Path(os.environ.get("KVLAB_SHARED", ROOT.parent / "shared")) / "conformance/vllm/corpus"

Patch = Callable[[MonkeyPatch], None]
MUTANTS: dict[str, tuple[Patch, tuple[str, ...]]] = {}


def mutant(*noticed_by: str) -> Callable[[Patch], Patch]:
    """Register a mutant, and the recordings of which any must notice it."""

    def register(patch: Patch) -> Patch:
        MUTANTS[patch.__name__] = (patch, noticed_by)
        return patch

    return register


def around(patch: MonkeyPatch, owner: Any, name: str, new: Callable[..., Any]) -> None:
    """Replace a method by ``new(original, self, ...)``."""
    original = getattr(owner, name)
    patch.setattr(owner, name, lambda self, *args, **kw: new(original, self, *args, **kw))


@mutant("scripted_lru")
def blocks_freed_in_order(patch: MonkeyPatch) -> None:
    """Rule 3: a sequence's first block is freed first."""
    around(patch, BlockPool, "give", lambda give, self, blocks: give(self, blocks[::-1]))


@mutant("scripted_lru")
def freed_blocks_reused_first(patch: MonkeyPatch) -> None:
    """Rule 3: freed blocks go to the head of the queue."""

    def give(original: Any, self: BlockPool, blocks: list[int]) -> None:
        before = len(self._queue)
        original(self, blocks)
        if len(self._queue) > before:
            self._queue.rotate(1)

    around(patch, BlockPool, "give", give)


@mutant("scripted_full_hit")
def freeing_forgets_keys(patch: MonkeyPatch) -> None:
    """Rule 2: a block loses its key when it is freed, not when it is taken again."""

    def give(original: Any, self: BlockPool, blocks: list[int]) -> None:
        original(self, blocks)
        for block in self.free_queue():
            self.unpublish(block)

    around(patch, BlockPool, "give", give)


@mutant("scripted_dup_hash")
def newest_duplicate_found(patch: MonkeyPatch) -> None:
    """Rule 5: of two blocks with a key the newer one is found."""

    def put_one(original: Any, self: Shelf, entry: int, block: int) -> None:
        original(self, entry, block)
        self.blocks[entry - self.first] = block

    around(patch, Shelf, "put_one", put_one)


@mutant("scripted_same_step")
def caching_waits_for_the_step(patch: MonkeyPatch) -> None:
    """Rule 7: blocks are found only once they are computed."""
    around(
        patch,
        BlockManager,
        "publish",
        lambda publish, self, holding, tokens: publish(self, holding, holding.start),
    )


@mutant("scripted_full_hit")
def whole_prompt_may_hit(patch: MonkeyPatch) -> None:
    """Rule 10: the last token may be found too."""
    around(
        patch,
        BlockManager,
        "find",
        lambda find, self, owner, path, tokens: find(self, owner, path, tokens + 1),
    )


@mutant("scripted_swa_w5", "scripted_swa_w9")
def window_needs_a_block_more(patch: MonkeyPatch) -> None:
    """Rule 13: a hit must have as many cached blocks as the window has, its own token included."""

    def find(original: Any, self: WindowGroup, *args: Any) -> Any:
        self.window += 1
        found = original(self, *args)
        self.window -= 1
        return found

    around(patch, WindowGroup, "find", find)


@mutant("scripted_swa_w4", "scripted_swa_w8")
def window_freed_a_token_late(patch: MonkeyPatch) -> None:
    """Rule 18: the window reaches one token further back."""
    around(
        patch,
        WindowGroup,
        "skipped",
        lambda skipped, self, computed: skipped(self, max(0, computed - 1)),
    )
    around(patch, WindowGroup, "next_drop", lambda original, self, table: 0)


@mutant("scripted_swa_w4", "scripted_swa_w8")
def windows_freed_in_the_same_step(patch: MonkeyPatch) -> None:
    """Rule 19: what the tokens of this step will not need is freed before they are computed."""

    def extend(original: Any, self: BlockManager, holding: Any, computed: int, *args: Any) -> Any:
        n = args[0] if args else 1
        self._drop(holding, computed + n - 1)
        return original(self, holding, computed, *args)

    around(patch, BlockManager, "extend", extend)
    around(patch, BlockManager, "extend_by_one", extend)
    around(patch, WindowGroup, "skipped", lambda skipped, self, n: skipped(self, n + (n > 0)))


@mutant("chunked_local_s0_05")
def chunk_before_is_needed(patch: MonkeyPatch) -> None:
    """Rule 14: blocks of earlier chunks have to be found too."""

    def find(self: ChunkGroup, path: Any, longest: int, alignment: int) -> Any:
        return Group.find(self, path, longest, alignment)

    patch.setattr(ChunkGroup, "find", find)


@mutant("kept_hybrid_mixed_s7_15")
def lookup_in_one_round(patch: MonkeyPatch) -> None:
    """Rule 15: types shorten the candidate once; no second round."""

    def find(original: Any, self: Coordinator, path: Any, longest: int) -> Any:
        if len(self.groups) == 1:
            return original(self, path, longest)
        tables: list[list[int]] = [[] for _ in self.groups]
        length = longest
        for peers in self.alike:
            found = peers[0].find(path, length, self._alignment)
            for peer, table in zip(peers, found, strict=True):
                tables[peer.index] = table
            length = len(found[0]) * peers[0].size
        if self.alike[0][0].spec.kind == "full":
            for group in self.alike[0]:
                del tables[group.index][length // group.size :]
        return Hit(length, tables)

    around(patch, Coordinator, "find", find)


@mutant("scripted_reserve_vs_slots")
def gate_asks_for_the_first_chunk(patch: MonkeyPatch) -> None:
    """Rule 23: the gate is always open."""
    patch.setattr(Paged, "can_admit", lambda self, seq, hit: True)


@mutant("scripted_swa_long_reserve")
def gate_knows_of_windows(patch: MonkeyPatch) -> None:
    """Rule 23: the gate counts no more than a window."""

    def can_admit(original: Any, self: Paged, seq: Any, hit: int) -> bool:
        window = max(group.window for group in self.manager.groups)
        return original(self, seq, hit) or (window > 0 and self.manager.pool.free > window)

    around(patch, Paged, "can_admit", can_admit)


@mutant("scripted_long_prefill")
def no_threshold(patch: MonkeyPatch) -> None:
    """Rule 21: long prefills are cut by the budget alone."""
    patch.setattr(VllmScheduler, "_shortened", lambda self, n: n)


@mutant("scripted_preempt_many", "preempt_s0_13")
def preempted_wait_last(patch: MonkeyPatch) -> None:
    """Rule 22: a preempted sequence goes to the end of the queue."""
    patch.setattr(FcfsQueue, "put_back", FcfsQueue.push)


@mutant("scripted_preempt_many", "preempt_s0_11")
def admission_after_preemption(patch: MonkeyPatch) -> None:
    """Rule 23: waiting sequences are admitted although somebody was preempted."""

    def schedule_running(original: Any, self: VllmScheduler, step: Any) -> Any:
        chunks, budget = original(self, step)
        if step.preempted:
            self._admit(step, chunks, budget)
        return chunks, budget

    around(patch, VllmScheduler, "_schedule_running", schedule_running)


@mutant("scripted_reserve_vs_slots")
def refused_are_overtaken(patch: MonkeyPatch) -> None:
    """Rule 23: a waiting sequence may be admitted before a refused one."""

    def admit(original: Any, self: VllmScheduler, step: Any, chunks: Any, budget: int) -> None:
        original(self, step, chunks, budget)
        queue = getattr(self._waiting, "_queue", deque())
        if self._turned_away is not None and len(queue) > 1:
            queue.append(queue.popleft())

    around(patch, VllmScheduler, "_admit", admit)


@mutant("scripted_priority_ties")
def latest_of_equals_preempted(patch: MonkeyPatch) -> None:
    """Rule 21: of running sequences that are equally urgent the last is preempted."""

    def visit_all(original: Any, self: VllmScheduler, *args: Any) -> Any:
        ranks = {id(seq): seq.rank for seq in self._running}
        patch.setattr(
            scheduler_module,
            "urgency",
            lambda seq: (seq.priority, seq.arrival, ranks.get(id(seq), 0)),
        )
        return original(self, *args)

    around(patch, VllmScheduler, "_visit_all", visit_all)


@mutant("scripted_priority_scheduled_victim", "scripted_priority_budget_back")
def least_urgent_goes_first(patch: MonkeyPatch) -> None:
    """Rule 21: with priorities too the last of the running is preempted."""
    patch.setattr(scheduler_module, "urgency", lambda seq: seq.rank)


@mutant("priority_s0_01", "priority_s0_13", "kept_priority_s118_03")
def ids_compared_as_numbers(patch: MonkeyPatch) -> None:
    """Rule 24: ties of priority and arrival are broken by number, r2 before r10."""
    original = vllm_setup.Requests.__init__

    def init(self: Any, records: Any) -> None:
        records = list(records)
        for record in records:
            record["id"] = f"r{int(record['id'][1:]):09d}"
        original(self, records)
        self.names = {n: f"r{int(name[1:])}" for n, name in self.names.items()}
        self.by_name = {f"r{int(name[1:])}": seq for name, seq in self.by_name.items()}

    patch.setattr(vllm_setup.Requests, "__init__", init)


@mutant("mamba_s0_05", "mamba_s0_11", "mamba_s0_08")
def chunks_not_aligned(patch: MonkeyPatch) -> None:
    """Rule 25: prefill chunks end anywhere."""
    patch.setattr(Paged, "chunk_of", lambda self, seq, computed, n: n)


@mutant("mamba_s0_08")
def states_found_while_computed(patch: MonkeyPatch) -> None:
    """Rule 25: a state may be taken over in the step that computes it."""
    patch.setattr(StateGroup, "first_need", Group.first_need)


@mutant("scripted_maxlen_min_tokens_8")
def longest_length_ends_all(patch: MonkeyPatch) -> None:
    """Rule 26: the longest length ends a sequence whether or not it has its least tokens."""
    patch.setattr(
        VllmScheduler, "_end_of", lambda self, seq: min(seq.limit, self.options.max_model_len)
    )


@mutant("full_nocache_s0_00", "preempt_s0_13")
def finished_freed_in_reverse(patch: MonkeyPatch) -> None:
    """Rule 26: of sequences that finish together the last is freed first."""
    around(
        patch,
        VllmScheduler,
        "_finish_all",
        lambda finish, self, finished: finish(self, finished[::-1])[::-1],
    )


@mutant("scripted_salt_skip")
def salts_ignored(patch: MonkeyPatch) -> None:
    """Rule 6: a salt does not part equal prompts."""
    around(patch, PrefixTree, "path", lambda path, self, tokens, salt=None: path(self, tokens))


@mutant("scripted_salt_skip")
def readers_who_must_not(patch: MonkeyPatch) -> None:
    """Rule 11: ``skip_cache_read`` is ignored."""

    def lookup(original: Any, self: Paged, seq: Any) -> int:
        reads, seq.reads_cache = seq.reads_cache, True
        hit = original(self, seq)
        seq.reads_cache = reads
        return hit

    around(patch, Paged, "lookup", lookup)


@mutant("scripted_stats_retry", "scripted_preempt_self_hit")
def hits_not_taken_out_of_the_queue(patch: MonkeyPatch) -> None:
    """Rule 17: blocks that are found count as had, though they leave the free queue."""
    patch.setattr(BlockPool, "free_among", lambda self, blocks: 0)


@mutant("priority_s0_09")
def budget_of_victims_lost(patch: MonkeyPatch) -> None:
    """Rule 21: tokens of an unscheduled victim do not return to the budget."""

    class Stingy(dict[int, tuple[Any, int]]):
        def pop(self, key: int) -> Any:  # type: ignore[override]
            return super().pop(key)[0], 0

    def visit_all(
        original: Any, self: VllmScheduler, step: Any, index: int, scheduled: Any, budget: int
    ) -> Any:
        return original(self, step, index, Stingy(scheduled), budget)

    around(patch, VllmScheduler, "_visit_all", visit_all)


@mutant("scripted_priority_self_middle")
def rest_goes_on_after_self_preemption(patch: MonkeyPatch) -> None:
    """Rule 21: after a sequence has preempted itself those behind it are still scheduled."""

    def visit_all(
        original: Any, self: VllmScheduler, step: Any, index: int, scheduled: Any, budget: int
    ) -> Any:
        before = len(step.preempted)
        chunks, budget = original(self, step, index, scheduled, budget)
        if len(step.preempted) > before and step.preempted[-1] not in self._running:
            index = sum(seq.id in chunks or seq in self._batch for seq in self._running)
            if index < len(self._running):
                more = {seq.id: (seq, 1) for seq in self._running if seq in self._batch}
                return original(self, step, index, {**more, **chunks}, budget)
        return chunks, budget

    around(patch, VllmScheduler, "_visit_all", visit_all)


@mutant("scripted_priority_ties", "priority_s0_13")
def preempted_wait_as_if_new(patch: MonkeyPatch) -> None:
    """Rule 24: with priorities a preempted sequence waits behind all others."""

    def put_back(self: PriorityQueue, seq: Any) -> None:
        arrival, seq.arrival = seq.arrival, 1e9
        self.push(seq)
        seq.arrival = arrival

    patch.setattr(PriorityQueue, "put_back", put_back)


@pytest.mark.skipif(not CORPUS.is_dir(), reason=f"no recordings at {CORPUS}")
@pytest.mark.parametrize("name", MUTANTS)
def test_a_broken_rule_is_noticed(name: str, monkeypatch: MonkeyPatch) -> None:
    patch, recordings = MUTANTS[name]
    patch(monkeypatch)
    reports = [replay(CORPUS / f"{recording}.jsonl.gz") for recording in recordings]
    assert any(report.mismatches for report in reports)
