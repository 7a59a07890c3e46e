"""llama-server: a fixed number of slots, one batch a step, decoding slots before prompts.

Source: ``tools/server/server-context.cpp`` of llama.cpp in October 2026 (``update_slots``,
``pre_decode``, ``decode``). `docs/schedulers.md` says what is not modelled.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

from sim.compiled import is_a
from sim.llamacpp.state import SavedState
from sim.policies.base import Policy
from sim.policies.llamacpp import LlamaPolicy
from sim.prompt_cache.checkpoints import CheckpointRule, latest, resumed_at, threshold_of
from sim.prompt_cache.host import HostPromptCache
from sim.prompt_cache.prompt import Checkpoint
from sim.schedulers.base import Scheduler
from sim.schedulers.llama_slots import Slot, Turns, choose
from sim.schedulers.queues import FcfsQueue
from sim.sequence import Sequence, Status
from sim.speculation import Speculation
from sim.step import Run, Step
from workloads.errors import InputError
from workloads.plugins import option

MIB = 1 << 20
CONTEXT_FULL = "the context was full, with no idle slot left to purge"
SHARED_SHIFT = "a shared prompt cannot be shifted"


class LlamaServer(Scheduler):
    """llama-server's scheduling over llama.cpp's caches.

    A request takes an idle slot, whose cache it uses as far as its prompt agrees with it. A slot
    keeps its cache when the request has ended. Where the cells run out, idle slots are emptied one
    by one; where none is left, all requests under way fail, as they do in the engine.
    """

    name = "llama-server"

    @dataclass(frozen=True)
    class Options:
        """The server's own flags; defaults are the server's unless stated."""

        n_parallel: int = option(0, "slots; 0: the setting's max_seqs", low=0)
        n_batch: int = option(
            0,
            "tokens of a logical batch (the engine's default is 2048); 0: the setting's"
            " max_batched_tokens",
            low=0,
        )
        slot_prompt_similarity: float = option(
            0.1, "share of a prompt that a slot must hold to be chosen for it", low=0, high=1
        )
        cache_prompt: bool = option(True, "go on from what the slot holds of the prompt")
        context_shift: bool = option(False, "drop tokens when a slot is full, rather than stop")
        shift_by: Literal["rotate", "reprefill"] = option(
            "rotate", "rotate the keys of what stays (the engine), or process it all again"
        )
        n_keep: int = option(1, "first tokens that a context shift keeps (the BOS token)", low=0)
        n_discard: int = option(0, "tokens that a shift drops; 0: half of the others", low=0)
        ctx_checkpoints: int = option(32, "context checkpoints of a slot; 0: none", low=0)
        checkpoint_min_step: int = option(
            8192, "tokens between checkpoints in the middle of a prompt", low=0
        )
        cache_ram: int = option(
            8192, "MiB of host memory for prompts without a slot; 0: none, -1: any amount", low=-1
        )
        cache_idle_slots: bool = option(
            True, "save idle slots to the host when a request starts, and empty unified ones"
        )

    def __init__(self, policy: Policy, options: Options | None = None) -> None:
        """Raises `InputError` for a policy without llama.cpp's sequence operations."""
        self.options = options = self.Options() if options is None else options
        self.policy = self._llama = _llama_policy(policy)
        budget, context = policy.budget, self._llama.context
        number = options.n_parallel or self._llama.sequences
        if number > self._llama.sequences:
            raise InputError(
                f"llama-server: n_parallel: expected at most {self._llama.sequences}, the sequences"
                f" of the context (max_seqs), got {number}"
            )
        if options.context_shift and not self._llama.memory.can_shift():
            raise InputError(f"llama-server: context_shift: {policy.name} cannot shift its cache")
        self.slots = [Slot(i) for i in range(number)]
        self.context_size = budget.max_model_len
        if self._llama.caches:
            self.context_size = min(self.context_size, context.sizes.n_ctx_seq)
        self._unified = context.sizes.n_stream == 1
        self._n_batch = options.n_batch or budget.max_batched_tokens
        self._window = _window_of(self._llama)
        self._rule = CheckpointRule(
            options.ctx_checkpoints,
            options.checkpoint_min_step,
            self._n_batch,
            min(self._llama.ubatch, self._n_batch),
        )
        self._makes_checkpoints = options.ctx_checkpoints > 0 and (
            self._window > 0 or self._llama.states is not None
        )
        self._host: HostPromptCache | None = None
        if options.cache_ram:
            limit = None if options.cache_ram < 0 else options.cache_ram * MIB
            # The engine's n_ctx; a policy without cells has a context just long enough for a batch.
            sizes = context.sizes
            room = sizes.n_ctx if self._llama.caches else self.context_size * sizes.n_stream
            self._host = HostPromptCache(limit, room)
        self._turns = Turns()
        self._waiting = FcfsQueue()
        self._counts: Counter[str] = Counter()
        self._checkpoint_bytes = 0
        self._releases = 0
        self._llama.make_room = self._purge_one

    # Questions.

    @property
    def waiting(self) -> FcfsQueue:
        """Requests without a slot, in order of arrival."""
        return self._waiting

    @property
    def running(self) -> list[Sequence]:
        """Sequences with a slot, in the order of the slots."""
        return [slot.serving for slot in self.slots if slot.busy]

    @property
    def batch(self) -> list[Sequence]:
        """Those that take one token in every step, in the order of the slots."""
        if self.speculation is not None:
            return []
        return [slot.serving for slot in self.slots if slot.decodes]

    @property
    def has_work(self) -> bool:
        """Whether any sequence waits or has a slot."""
        return len(self._waiting) > 0 or any(slot.busy for slot in self.slots)

    @property
    def retained(self) -> Collection[int]:
        """Sequences that have ended in slots which still hold their cache."""
        return [slot.seq.id for slot in self.slots if slot.seq is not None and not slot.busy]

    @property
    def counts(self) -> Mapping[str, int]:
        """Tokens processed again, checkpoints, and the traffic with host memory."""
        names = (
            "reprocessed_tokens",
            "checkpoints_made",
            "checkpoints_restored",
            "checkpoint_peak_bytes",
            "prompt_cache_saves",
            "prompt_cache_loads",
            "slots_purged",
            "find_slot_failures",
            "context_shifts",
            "truncated_sequences",
        )
        peak = self._host.peak if self._host is not None else 0
        counts = {name: self._counts[name] for name in names} | {"prompt_cache_peak_bytes": peak}
        return counts if self.speculation is None else {**counts, **self.speculation.counts}

    def speculate(self, speculation: Speculation) -> None:
        """Verify drafts from the next step on; a batch has to hold those of all slots."""
        needed = len(self.slots) * (1 + speculation.tokens)
        if needed > self._n_batch:
            raise InputError(
                f"llama-server: n_batch: expected at least {needed}, a token and"
                f" {speculation.tokens} drafts for each of {len(self.slots)} slots, got"
                f" {self._n_batch}"
            )
        self.policy.speculate(speculation.tokens, speculation.lookahead)
        speculation.drafts_first = True
        self.speculation = speculation

    def forget(self) -> int:
        """Empty all idle slots."""
        idle = [slot for slot in self.slots if not slot.busy and slot.seq is not None]
        for slot in idle:
            self._clear(slot)
        return len(idle)

    def misfit_of(self, seq: Sequence) -> str:
        """A prompt has to leave room for one token; what is generated may be cut off."""
        if seq.prompt >= self.context_size:
            return f"the prompt exceeds the context of a slot ({self.context_size} tokens)"
        return ""

    # Coming and going.

    def add(self, seq: Sequence) -> None:
        """Let a request wait for a slot."""
        self._waiting.push(seq)

    def abort(self, seq: Sequence) -> None:
        """Drop a sequence and what its slot holds; `ValueError` if it neither waits nor runs."""
        if seq.status is Status.RUNNING:
            slot = self._slot_of(seq)
            self._end(slot)
            self._clear(slot)
        else:
            self._waiting.remove(seq)
        seq.status = Status.FAILED

    def _slot_of(self, seq: Sequence) -> Slot:
        return next(slot for slot in self.slots if slot.seq is seq)

    def fork(self, parent: Sequence, child: Sequence) -> bool:
        """Copy the slot of ``parent`` into the first idle one, for ``child``."""
        slot = next((slot for slot in self.slots if not slot.busy), None)
        if slot is None:
            return False
        source = self._slot_of(parent)
        self._clear(slot)
        self._llama.adopt(child.id, slot.number)
        self._llama.seq_cp(parent.id, child.id, -1, -1)
        child.tokens, child.computed = parent.tokens, parent.computed
        child.status = Status.RUNNING
        slot.begin(child)
        slot.started = slot.is_child = True
        slot.dropped = source.dropped
        slot.prompt = source.prompt.copy()
        slot.prompt.path = child.path
        self._count_checkpoints(slot.prompt.checkpoint_bytes)
        return True

    def _end(self, slot: Slot) -> None:
        """The slot is idle. What a fork left in it is not kept: its parent has it too."""
        slot.end(self._releases)
        self._releases += 1
        if slot.is_child:
            self._clear(slot)

    def _clear(self, slot: Slot) -> None:
        """Empty the cache of a slot, checkpoints included."""
        if slot.busy:
            self._llama.seq_rm(slot.serving.id, -1, -1)
        elif slot.seq is not None:
            self._llama.release(slot.seq)
        self._count_checkpoints(-slot.prompt.checkpoint_bytes)
        slot.empty()

    def _count_checkpoints(self, nbytes: int) -> None:
        self._checkpoint_bytes += nbytes
        peak = self._counts["checkpoint_peak_bytes"]
        self._counts["checkpoint_peak_bytes"] = max(peak, self._checkpoint_bytes)

    # One step.

    def schedule(self) -> Step:
        """One batch: a token of every decoding slot, then prompts in the order of the slots."""
        step = Step()
        self._launch(step)
        self._shift(step)
        decoding = [slot for slot in self.slots if slot.decodes]
        most = self._most_drafts(len(decoding))
        work = [(slot, 1 + self._drafts_of(slot, most)) for slot in decoding]
        room = self._n_batch - sum([n for _, n in work])
        for slot in self.slots:
            if room > 0 and slot.busy and not slot.decodes:
                n = self._prompt_tokens(slot, room, step)
                work.append((slot, n))
                room -= n
        runs = []
        for slot, n in work:
            seq = slot.serving
            while not self.policy.allocate(seq, n):
                self._counts["find_slot_failures"] += 1
                if not self._purge_one():
                    self._fail_all(step)
                    return step
            runs.append(Run(seq, seq.computed, n))
        for seq, _, n in runs:
            seq.computed += n
        step.runs = runs
        if self.speculation is not None:
            step.drafts = self.speculation.verify([(seq, n) for seq, _, n in runs], self._kept)
        return step

    def _most_drafts(self, slots: int) -> int:
        """Tokens that can be drafted for each of so many slots.

        The cells of a draft model are as full as the model's, and nobody is purged for a draft.
        """
        if self.speculation is None:
            return 0
        if not (slots and self._unified and self._llama.caches and self.speculation.has_cache):
            return self.speculation.tokens
        cache = self._llama.caches[0]
        return min(self.speculation.tokens, (cache.size - cache.streams[0].used) // slots)

    def _drafts_of(self, slot: Slot, most: int) -> int:
        """Drafts for a slot that decodes: none behind its last token, nor up to a full context."""
        if self.speculation is None:
            return 0
        seq = slot.serving
        room = min(self.context_size - slot.held - 2, seq.limit - seq.tokens - 1)
        return max(0, min(self.speculation.drafts_for(seq), most, room))

    def _kept(self, seq: Sequence, accepted: int) -> int:
        """Tokens that are sent: of those that fill the context only the first, as in the engine."""
        held = self._slot_of(seq).held - (seq.computed - seq.tokens - accepted)
        is_full = not self.options.context_shift and held + 1 >= self.context_size
        return 1 if is_full else 1 + accepted

    def _launch(self, step: Step) -> None:
        """Give slots to waiting requests, first come first served."""
        options = self.options
        while len(self._waiting):
            seq = self._waiting.first()
            slot, save = choose(self.slots, seq, options.slot_prompt_similarity)
            if slot is None:
                return
            self._waiting.pop()
            self._llama.adopt(seq.id, slot.number)
            slot.begin(seq)
            seq.status = Status.RUNNING
            step.admitted.append(seq)
            if save and self._host is not None:
                self._exchange(slot, self._host, step)
            if options.cache_idle_slots and self._host is not None:
                self._save_idle(self._host, step)

    def _shift(self, step: Step) -> None:
        """Drop tokens of decoding slots that are full, if that is asked for."""
        options = self.options
        for slot in self.slots:
            if not slot.decodes or slot.held + 1 < self.context_size:
                continue
            seq = slot.serving
            if max(seq.request.samples, seq.request.beam_width) > 1:
                self._fail(slot, SHARED_SHIFT, step)
                continue
            kept = min(self.context_size - 4, options.n_keep)
            left = slot.held - kept
            dropped = min(options.n_discard or left // 2, max(0, left - 1))
            slot.prompt.known = min(slot.prompt.known if slot.dropped else slot.held, kept)
            slot.dropped += dropped
            if options.shift_by == "rotate":
                self._llama.seq_rm(seq.id, kept, kept + dropped)
                self._llama.seq_add(seq.id, kept + dropped, -1, -dropped)
            else:
                self._llama.seq_rm(seq.id, kept, -1)
                seq.high = max(seq.high, seq.computed)
                seq.computed = kept + slot.dropped
            self._count_checkpoints(-slot.prompt.checkpoint_bytes)
            slot.prompt.checkpoints.clear()
            self._counts["context_shifts"] += 1

    def _prompt_tokens(self, slot: Slot, room: int, step: Step) -> int:
        """Tokens of a slot's prompt that go into the batch, at most ``room``; at least one."""
        seq = slot.serving
        if not slot.started:
            self._start(slot, step)
        start, length = seq.computed, seq.tokens  # more than the prompt after a shift by prefill
        end = min(length, start + room)
        if not self._makes_checkpoints:
            return end - start
        starts, made = self._turns.starts(seq), slot.prompt.checkpoints
        end = self._rule.stop(start, end, length, starts, made)
        if self._rule.is_due(start, end, length, starts, made):
            self._make_checkpoint(slot, step)
        return end - start

    def _start(self, slot: Slot, step: Step) -> None:
        """Keep what the slot's cache has in common with the prompt, and remove the rest."""
        seq, prompt = slot.serving, slot.prompt
        slot.started = True
        shared = prompt.shared_with(seq.path, seq.prompt) if self.options.cache_prompt else 0
        past = min(self._resume(slot, shared, step), seq.prompt - 1)
        self._counts["reprocessed_tokens"] += min(shared, seq.prompt - 1) - past
        prompt.keep(seq.path, past)
        seq.computed = seq.hit = past
        self._llama.seq_rm(seq.id, past, -1)

    def _resume(self, slot: Slot, shared: int, step: Step) -> int:
        """Tokens after which the slot can go on, of the ``shared`` first ones of its cache."""
        seq, made = slot.serving, slot.prompt.checkpoints
        position = past = shared
        threshold = threshold_of(shared, seq.prompt, self._window)
        if shared and self._llama.seq_pos_min(seq.id) >= threshold:
            checkpoint = latest(made, shared, threshold)
            position = past = 0
            if checkpoint is not None and self._restore(checkpoint, seq, step):
                position, past = resumed_at(checkpoint, shared)
        kept = [checkpoint for checkpoint in made if checkpoint.high <= position]
        self._count_checkpoints(sum(c.nbytes for c in kept) - slot.prompt.checkpoint_bytes)
        slot.prompt.checkpoints = kept
        return past

    def _restore(self, checkpoint: Checkpoint, seq: Sequence, step: Step) -> bool:
        """Put a checkpoint back; False, with the sequence gone, where it finds no cells."""
        if not self._load(checkpoint.state, seq, step):
            return False
        self._counts["checkpoints_restored"] += 1
        return True

    def _make_checkpoint(self, slot: Slot, step: Step) -> None:
        """Save what the slot holds before the next tokens are processed."""
        seq, made = slot.serving, slot.prompt.checkpoints
        low = self._llama.seq_pos_min(seq.id)
        if low < 0:
            return
        high = self._llama.seq_pos_max(seq.id)
        state = self._llama.save(seq.id, partial=True)
        before = slot.prompt.checkpoint_bytes
        self._rule.add(made, Checkpoint(seq.id, seq.computed, low, high, state, state.nbytes))
        self._count_checkpoints(slot.prompt.checkpoint_bytes - before)
        self._counts["checkpoints_made"] += 1
        step.swapped_out += state.nbytes

    # Host memory.

    def _exchange(self, slot: Slot, host: HostPromptCache, step: Step) -> None:
        """Save what the slot holds, and load what serves its sequence better, if there is any."""
        seq = slot.serving
        self._save(slot, host, step)
        entry = host.take(slot.prompt, seq.path, seq.prompt)
        if entry is not None:
            self._count_checkpoints(-slot.prompt.checkpoint_bytes)
            slot.prompt = entry.prompt
            self._count_checkpoints(slot.prompt.checkpoint_bytes)
            if self._load(entry.state, seq, step):
                self._counts["prompt_cache_loads"] += 1
            else:
                self._clear(slot)
        host.trim()

    def _save_idle(self, host: HostPromptCache, step: Step) -> None:
        """Save all idle slots. In unified cells they are emptied, which makes room for others."""
        for slot in self.slots:
            if slot.busy or not slot.prompt.tokens:
                continue
            self._save(slot, host, step)
            host.trim()
            if self._unified:
                self._clear(slot)

    def _save(self, slot: Slot, host: HostPromptCache, step: Step) -> None:
        seq = slot.seq
        if seq is None or not slot.prompt.tokens:
            return
        size = self._llama.state_bytes(seq.id)
        saved = host.store(slot.prompt, size, lambda: self._llama.save(seq.id))
        step.swapped_out += saved
        self._counts["prompt_cache_saves"] += saved > 0

    def _load(self, state: SavedState, seq: Sequence, step: Step) -> bool:
        number = self._slot_of(seq).number
        if not self._llama.restore(state, seq.id):
            self._llama.adopt(seq.id, number)
            return False
        step.swapped_in += state.nbytes
        return True

    # No room.

    def _purge_one(self) -> bool:
        """Empty the first idle slot that holds anything; only unified cells serve others."""
        for slot in self.slots if self._unified else ():
            if not slot.busy and slot.prompt.tokens:
                self._clear(slot)
                self._counts["slots_purged"] += 1
                return True
        return False

    def _fail_all(self, step: Step) -> None:
        for slot in self.slots:
            if slot.busy:
                self._fail(slot, CONTEXT_FULL, step)

    def _fail(self, slot: Slot, reason: str, step: Step) -> None:
        seq = slot.serving
        self.abort(seq)
        step.failed.append((seq, reason))

    # The end of a step.

    def update(self, step: Step) -> list[Sequence]:
        """Sample, and release the slots of finished sequences."""
        for seq, _, _ in step.runs:
            if seq.computed >= seq.tokens:
                seq.tokens += 1
        for seq, _, _ in step.runs if step.drafts else ():
            draft = (step.drafts or {}).get(seq.id)
            if draft is not None:
                seq.tokens += draft.kept - 1
                seq.computed -= draft.rejected
                self.policy.take_back(seq, draft.rejected)
        return self._finish()

    def _finish(self) -> list[Sequence]:
        finished = []
        for slot in self.slots:
            if slot.busy and self._is_over(slot):
                seq = slot.serving
                self._counts["truncated_sequences"] += seq.tokens < seq.limit
                self._end(slot)
                if self._makes_checkpoints:
                    self._turns.served(seq)
                seq.status = Status.FINISHED
                finished.append(seq)
        return finished

    def _is_over(self, slot: Slot) -> bool:
        """Whether the sequence has its last token, or no room for another."""
        if slot.serving.tokens >= slot.serving.limit:
            return True
        return not self.options.context_shift and slot.held + 1 >= self.context_size

    def _end_of(self, seq: Sequence) -> int:
        """The length at which a sequence ends: without shifts, when its slot is full too."""
        return seq.limit if self.options.context_shift else min(seq.limit, self.context_size)

    # Steady steps.

    @property
    def refusals_per_step(self) -> int:
        """0: a request without a slot is not tried."""
        return 0

    def steady_steps(self) -> int:
        """Steps up to the first end or the first full slot, if all slots decode or are idle."""
        busy = [slot for slot in self.slots if slot.busy]
        if self.speculation is not None or not busy or not all(slot.decodes for slot in busy):
            return 0
        if len(self._waiting) and len(busy) < len(self.slots):
            return 0
        ends = min(self._end_of(slot.serving) - slot.serving.tokens for slot in busy)
        if not self.options.context_shift:
            return ends
        return min(ends, self.context_size - 1 - max(slot.held for slot in busy))

    def schedule_run(self, steps: int) -> None:
        """Take steady steps at once."""
        for slot in self.slots:
            if slot.busy:
                slot.serving.computed += steps

    def update_run(self, steps: int) -> list[Sequence]:
        """Sample what they computed, and release the slots of finished sequences."""
        for slot in self.slots:
            if slot.busy:
                slot.serving.tokens += steps
        return self._finish()


def _llama_policy(policy: Policy) -> LlamaPolicy:
    if not is_a(policy, LlamaPolicy):
        raise InputError(
            f"llama-server: policy {policy.name!r} has no slots of llama.cpp to serve from;"
            " expected ring, iswa, recurrent or hybrid"
        )
    if getattr(policy.options, "window", 0):
        raise InputError(
            f"llama-server: {policy.name}.window: expected 0, since the server shifts itself"
            " (context_shift)"
        )
    return policy


def _window_of(policy: LlamaPolicy) -> int:
    """The window that a cache of the policy forgets beyond (``n_swa``); 0 if none does.

    With ``swa_full`` the engine says none does, but states that it saves lack what the window has
    passed all the same, so that a prompt which branches off early from one loaded from host memory
    misses tokens. ``strict`` counts with the window.
    """
    if getattr(policy.options, "swa_full", False) and not policy.context.params.strict:
        return 0
    return max((cache.window.n for cache in policy.caches), default=0)
