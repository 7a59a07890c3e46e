"""llama-server: a fixed number of slots, one batch a step, decoding slots before prompts.

Source: ``tools/server/server-context.cpp`` of llama.cpp in October 2026 (``update_slots``,
``pre_decode``, ``decode``). `docs/schedulers.md` says what is not modelled.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import ClassVar

from sim.compiled import is_a
from sim.policies.base import Policy
from sim.policies.llamacpp import LlamaPolicy
from sim.schedulers.base import Scheduler
from sim.schedulers.llama_caches import SlotCaches
from sim.schedulers.llama_options import LlamaServerOptions
from sim.schedulers.llama_slots import Slot, choose
from sim.schedulers.queues import FcfsQueue
from sim.sequence import Sequence, Status
from sim.speculation import Speculation
from sim.step import Run, Step
from workloads.errors import InputError

CONTEXT_FULL = "the context was full, with no idle slot left to purge"
SHARED_SHIFT = "a shared prompt cannot be shifted"


class LlamaServer(Scheduler):
    """llama-server's scheduling over llama.cpp's caches.

    A request takes an idle slot, whose cache it uses as far as its prompt agrees with it. A slot
    keeps its cache when the request has ended. Where the cells run out, idle slots are emptied one
    by one; where none is left, all requests under way fail, as they do in the engine.
    """

    name = "llama-server"

    Options: ClassVar[type[LlamaServerOptions]] = LlamaServerOptions

    def __init__(self, policy: Policy, options: LlamaServerOptions | None = None) -> None:
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
        self._n_batch = options.n_batch or budget.max_batched_tokens
        self._caches = SlotCaches(
            self._llama, options, self.slots, self._n_batch, self.context_size
        )
        self._counts = self._caches.counts
        self._waiting = FcfsQueue()
        self._releases = 0
        self._llama.make_room = self._caches.purge_one

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
        host = self._caches.host
        peak = host.peak if host is not None else 0
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
            self._caches.clear(slot)
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
            self._caches.clear(slot)
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
        self._caches.clear(slot)
        child.tokens, child.computed = parent.tokens, parent.computed
        child.status = Status.RUNNING
        slot.begin(child)
        self._caches.copy(source, slot)
        return True

    def _end(self, slot: Slot) -> None:
        """The slot is idle. What a fork left in it is not kept: its parent has it too."""
        slot.end(self._releases)
        self._releases += 1
        if slot.is_child:
            self._caches.clear(slot)

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
                if not self._caches.purge_one():
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
        tokens, caches = self.speculation.tokens, self._llama.caches
        if not (slots and caches and self._caches.unified and self.speculation.has_cache):
            return tokens
        return min(tokens, (caches[0].size - caches[0].streams[0].used) // slots)

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
            self._caches.receive(slot, save, step)

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
            self._caches.drop(slot, kept, dropped)

    def _prompt_tokens(self, slot: Slot, room: int, step: Step) -> int:
        """Tokens of a slot's prompt that go into the batch, at most ``room``; at least one."""
        seq = slot.serving
        if not slot.started:
            self._caches.start(slot, step)
        # More than the prompt after a shift that processes it again.
        end = min(seq.tokens, seq.computed + room)
        return self._caches.go_on(slot, end, step) - seq.computed

    # No room.

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
                self._caches.served(seq)
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
