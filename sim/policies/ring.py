"""`ring`: llama.cpp's KV cache, one array of cells for all layers, searched from a head on."""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass
from typing import Literal

from sim.budget import Budget
from sim.llamacpp.geometry import CacheGeometry
from sim.llamacpp.sizes import ContextParams, Defrag
from sim.policies.llamacpp import NEVER, LlamaPolicy
from sim.policies.llamacpp_geometry import geometry_of, with_attention
from sim.sequence import Sequence
from workloads.errors import InputError
from workloads.plugins import option


class Ring(LlamaPolicy):
    """llama.cpp's cells: all layers in full, shared by all sequences or one stream a sequence.

    Windows of the model are forgotten (``llama_kv_cache`` alone); `iswa` is the cache that knows
    them. All bytes go into cells, in multiples of 256.
    """

    name = "ring"

    @dataclass(frozen=True)
    class Options:
        """How cells are found and shared."""

        streams: Literal["unified", "per-sequence"] = option(
            "unified", "one array for all sequences, or one each"
        )
        slots: Literal["scattered", "contiguous"] = option(
            "scattered", "any free cells, or a row of them as before ggml_set_rows"
        )
        ubatch: int = option(
            0, "tokens of a physical batch (the engine's default is 512); 0: the whole step", low=0
        )
        window: int = option(0, "tokens kept of a sequence (context shift); 0: all", low=0)
        sinks: int = option(4, "first tokens that a context shift keeps", low=0)
        discard: float = option(
            0.5, "share of the others that a shift drops; 0: no more than it must", low=0, high=1
        )
        defrag: float = option(
            0.0, "share of holes above which cells move into them, as until 2025; 0: never", low=0
        )
        defrag_nodes: int = option(
            65536, "nodes of the graph that moves cells: a row of them takes 6 a layer", low=1
        )
        compaction: float = option(
            0.0, "share of holes above which the cells of each sequence move together", low=0
        )
        strict: bool = option(False, "do the right thing where the engine has a defect")

    options: Options

    def __init__(self, budget: Budget, options: Options | None = None) -> None:
        super().__init__(budget, options)
        window, sinks = self.options.window, self.options.sinks
        if window:
            self.lossy = "old tokens are dropped (context shift)"
        if window and self.states is not None:
            raise InputError(
                f"ring.window: expected 0, as {budget.model.name} has recurrent states, from which "
                "no tokens can be taken out"
            )
        in_rows = self.options.slots == "contiguous" and self.options.streams == "unified"
        if in_rows and self.states is not None:
            # Recurrent states are split into two sequences a ubatch at least, and free cells are
            # promised one by one: there may be no two in a row.
            raise InputError(
                f"ring.slots: expected scattered, as {budget.model.name} has recurrent states,"
                " whose steps cannot be split into single cells"
            )
        if window and window < sinks + 2:
            raise InputError(
                f"ring.window: expected at least sinks + 2 = {sinks + 2}, got {window}"
            )

    def can_ever_hold(self, seq: Sequence) -> bool:
        """Whether there is a cell for every token, or for every token of the window."""
        window = self.options.window
        most = min(seq.limit, window) if window else self._most_of(seq)
        return most <= self.caches[0].size

    def chunk_of(self, seq: Sequence, computed: int, n: int) -> int:
        """No more at once than half of what a window holds beside the sinks."""
        window = self.options.window
        return min(n, (window - self.options.sinks) // 2) if window else n

    def allocate(self, seq: Sequence, n: int, hit: int = 0) -> bool:
        """With a window, first drop what the new tokens push out of it."""
        if self.options.window and seq.id in self._ids:
            self._shift(seq.id, n)
        return super().allocate(seq, n, hit)

    def allocate_each(self, seqs: SequenceOf[Sequence]) -> bool:
        """With a window every one has to be looked at."""
        return not self.options.window and super().allocate_each(seqs)

    def _shift(self, seq: int, n: int) -> None:
        """Context shift as llama-server does it: ``seq_rm`` behind the sinks, then ``seq_add``.

        What is dropped goes even if the tokens then find no room elsewhere.
        """
        own, sinks = self._ids[seq], self.options.sinks
        held = self._keeper.seq_pos_max(own) + 1
        needed = held + n - self.options.window
        if needed <= 0:
            return
        dropped = max(needed, int(self.options.discard * (held - sinks)))
        self.memory.seq_rm(own, sinks, sinks + dropped)
        self.memory.seq_add(own, sinks + dropped, -1, -dropped)

    def steps_until_shift(self, seqs: SequenceOf[Sequence]) -> int:
        """Steps until the first sequence fills its window."""
        window = self.options.window
        if not window:
            return NEVER
        return window - max(self._keeper.next_positions(self._own(seqs).tolist()))

    def geometry(self) -> CacheGeometry:
        """One cache for all attention layers; raises `InputError` where holes cannot be closed."""
        options = self.options
        geometry = with_attention(geometry_of(self.budget, self.name, windowed=False), self.name)
        if options.defrag and options.compaction:
            raise InputError("ring: defrag and compaction both close holes: give one of them")
        if (options.defrag or options.compaction) and options.streams != "unified":
            raise InputError("ring: defrag and compaction: expected streams=unified")
        needed = 8 * geometry.base.layers
        if options.defrag and options.defrag_nodes < needed:
            raise InputError(
                f"ring.defrag_nodes: expected at least {needed}, for one row of cells of "
                f"{geometry.base.layers} layers, got {options.defrag_nodes}"
            )
        return geometry

    def params(self, cells: int) -> ContextParams:
        """A context of so many cells, in one stream or spread over them."""
        options = self.options
        threshold = options.defrag or options.compaction
        return self.params_of(
            cells,
            kv_unified=options.streams == "unified",
            slots=options.slots,
            defrag=Defrag(threshold, options.defrag_nodes, bool(options.compaction))
            if threshold
            else None,
            strict=options.strict,
        )
