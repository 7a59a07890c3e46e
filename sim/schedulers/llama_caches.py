"""What the slots of llama-server hold: their caches, checkpoints, and prompts on the host.

Source: ``tools/server/server-context.cpp`` of October 2026.
"""

from __future__ import annotations

from collections import Counter

from sim.llamacpp.state import SavedState
from sim.policies.llamacpp import LlamaPolicy
from sim.prompt_cache.checkpoints import CheckpointRule, latest, resumed_at, threshold_of
from sim.prompt_cache.host import HostPromptCache
from sim.prompt_cache.prompt import Checkpoint
from sim.schedulers.llama_options import LlamaServerOptions
from sim.schedulers.llama_slots import Slot, Turns
from sim.sequence import Sequence
from sim.step import Step

MIB = 1 << 20


class SlotCaches:
    """The caches of ``slots``, which take prompts of up to ``context_size`` tokens.

    n_batch: tokens of a logical batch. unified: whether all slots share their cells. counts: what
    was done, by the names of metrics. Bytes to and from the host are added to the step that moves
    them.
    """

    def __init__(
        self,
        llama: LlamaPolicy,
        options: LlamaServerOptions,
        slots: list[Slot],
        n_batch: int,
        context_size: int,
    ) -> None:
        sizes = llama.context.sizes
        self.unified = sizes.n_stream == 1
        self.counts: Counter[str] = Counter()
        self._llama = llama
        self._options = options
        self._slots = slots
        self._window = _window_of(llama)
        self._rule = CheckpointRule(
            options.ctx_checkpoints,
            options.checkpoint_min_step,
            n_batch,
            min(llama.ubatch, n_batch),
        )
        self._makes_checkpoints = options.ctx_checkpoints > 0 and (
            self._window > 0 or llama.states is not None
        )
        self.host: HostPromptCache | None = None
        if options.cache_ram:
            limit = None if options.cache_ram < 0 else options.cache_ram * MIB
            # The engine's n_ctx; a policy without cells has a context just long enough for a batch.
            room = sizes.n_ctx if llama.caches else context_size * sizes.n_stream
            self.host = HostPromptCache(limit, room)
        self._turns = Turns()
        self._checkpoint_bytes = 0

    # A request gets a slot.

    def receive(self, slot: Slot, save: bool, step: Step) -> None:
        """``slot`` was given to a sequence. save: what it holds is worth a place on the host."""
        if self.host is None:
            return
        if save:
            self._exchange(slot, self.host, step)
        if self._options.cache_idle_slots:
            self._save_idle(self.host, step)

    def _exchange(self, slot: Slot, host: HostPromptCache, step: Step) -> None:
        """Save what the slot holds, and load what serves its sequence better, if there is any."""
        seq = slot.serving
        self._save(slot, host, step)
        entry = host.take(slot.prompt, seq.path, seq.prompt)
        if entry is not None:
            self._count_checkpoints(-slot.prompt.checkpoint_bytes)
            slot.prompt = entry.prompt
            self._count_checkpoints(slot.prompt.checkpoint_bytes)
            if self._load(entry.state, slot, step):
                self.counts["prompt_cache_loads"] += 1
            else:
                self.clear(slot)
        host.trim()

    def _save_idle(self, host: HostPromptCache, step: Step) -> None:
        """Save all idle slots. In unified cells they are emptied, which makes room for others."""
        for slot in self._slots:
            if slot.busy or not slot.prompt.tokens:
                continue
            self._save(slot, host, step)
            host.trim()
            if self.unified:
                self.clear(slot)

    def _save(self, slot: Slot, host: HostPromptCache, step: Step) -> None:
        seq = slot.seq
        if seq is None or not slot.prompt.tokens:
            return
        size = self._llama.state_bytes(seq.id)
        saved = host.store(slot.prompt, size, lambda: self._llama.save(seq.id))
        step.swapped_out += saved
        self.counts["prompt_cache_saves"] += saved > 0

    def _load(self, state: SavedState, slot: Slot, step: Step) -> bool:
        seq = slot.serving
        if not self._llama.restore(state, seq.id):
            self._llama.adopt(seq.id, slot.number)
            return False
        step.swapped_in += state.nbytes
        return True

    # Its prompt is processed.

    def start(self, slot: Slot, step: Step) -> None:
        """Keep what the slot's cache has in common with the prompt, and remove the rest."""
        seq, prompt = slot.serving, slot.prompt
        slot.started = True
        shared = prompt.shared_with(seq.path, seq.prompt) if self._options.cache_prompt else 0
        past = min(self._resume(slot, shared, step), seq.prompt - 1)
        self.counts["reprocessed_tokens"] += min(shared, seq.prompt - 1) - past
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
            if checkpoint is not None and self._load(checkpoint.state, slot, step):
                self.counts["checkpoints_restored"] += 1
                position, past = resumed_at(checkpoint, shared)
        self._keep_checkpoints(slot, [each for each in made if each.high <= position])
        return past

    def go_on(self, slot: Slot, end: int, step: Step) -> int:
        """Where the next piece of the prompt ends, at ``end`` or before it.

        Before it is processed a checkpoint may be due, and is made.
        """
        if not self._makes_checkpoints:
            return end
        seq, made = slot.serving, slot.prompt.checkpoints
        start, length, starts = seq.computed, seq.tokens, self._turns.starts(seq)
        end = self._rule.stop(start, end, length, starts, made)
        if self._rule.is_due(start, end, length, starts, made):
            self._make_checkpoint(slot, step)
        return end

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
        self.counts["checkpoints_made"] += 1
        step.swapped_out += state.nbytes

    def served(self, seq: Sequence) -> None:
        """``seq`` has been answered: the next turn of its conversation may begin there."""
        if self._makes_checkpoints:
            self._turns.served(seq)

    # Its cache is copied, shortened, emptied.

    def copy(self, source: Slot, target: Slot) -> None:
        """Let ``target``, idle until now, go on from where ``source`` is, for a child of its."""
        parent, child = source.serving, target.serving
        self._llama.adopt(child.id, target.number)
        self._llama.seq_cp(parent.id, child.id, -1, -1)
        target.started = target.is_child = True
        target.dropped = source.dropped
        target.prompt = source.prompt.copy()
        target.prompt.path = child.path
        self._count_checkpoints(target.prompt.checkpoint_bytes)

    def drop(self, slot: Slot, kept: int, dropped: int) -> None:
        """Shift the context: after the first ``kept`` tokens so many go, and all checkpoints."""
        seq = slot.serving
        slot.prompt.known = min(slot.prompt.known if slot.dropped else slot.held, kept)
        slot.dropped += dropped
        if self._options.shift_by == "rotate":
            self._llama.seq_rm(seq.id, kept, kept + dropped)
            self._llama.seq_add(seq.id, kept + dropped, -1, -dropped)
        else:
            self._llama.seq_rm(seq.id, kept, -1)
            seq.high = max(seq.high, seq.computed)
            seq.computed = kept + slot.dropped
        self._keep_checkpoints(slot, [])
        self.counts["context_shifts"] += 1

    def clear(self, slot: Slot) -> None:
        """Empty the cache of a slot, checkpoints included."""
        if slot.busy:
            self._llama.seq_rm(slot.serving.id, -1, -1)
        elif slot.seq is not None:
            self._llama.release(slot.seq)
        self._count_checkpoints(-slot.prompt.checkpoint_bytes)
        slot.empty()

    def purge_one(self) -> bool:
        """Empty the first idle slot that holds anything; only unified cells serve others."""
        for slot in self._slots if self.unified else ():
            if not slot.busy and slot.prompt.tokens:
                self.clear(slot)
                self.counts["slots_purged"] += 1
                return True
        return False

    def _keep_checkpoints(self, slot: Slot, kept: list[Checkpoint]) -> None:
        before = slot.prompt.checkpoint_bytes
        slot.prompt.checkpoints = kept
        self._count_checkpoints(slot.prompt.checkpoint_bytes - before)

    def _count_checkpoints(self, nbytes: int) -> None:
        self._checkpoint_bytes += nbytes
        peak = self.counts["checkpoint_peak_bytes"]
        self.counts["checkpoint_peak_bytes"] = max(peak, self._checkpoint_bytes)


def _window_of(policy: LlamaPolicy) -> int:
    """The window that a cache of the policy forgets beyond (``n_swa``); 0 if none does.

    With ``swa_full`` the engine says none does, but states that it saves lack what the window has
    passed all the same, so that a prompt which branches off early from one loaded from host memory
    misses tokens. ``strict`` counts with the window.
    """
    if getattr(policy.options, "swa_full", False) and not policy.context.params.strict:
        return 0
    return max((cache.window.n for cache in policy.caches), default=0)
