"""`recurrent`: llama.cpp's memory of models without attention, one state a sequence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sim.llamacpp.context import Context
from sim.llamacpp.geometry import CacheGeometry
from sim.llamacpp.sizes import MAX_SEQ, ContextParams, recurrent_bytes
from sim.policies.llamacpp import LlamaPolicy
from sim.policies.llamacpp_geometry import geometry_of
from workloads.errors import InputError
from workloads.plugins import option


class Recurrent(LlamaPolicy):
    """llama.cpp's recurrent states: one for every sequence id, of the same size at any length.

    The context gets as many sequence ids as its bytes hold states, at most as many as sequences
    may run. A step is cut into ubatches of sequences whose ids follow one another, and each of
    them into as many tokens of every sequence as the shortest has.
    """

    name = "recurrent"

    @dataclass(frozen=True)
    class Options:
        """How many states there are, and how they are updated."""

        streams: Literal["unified", "per-sequence"] = option(
            "unified",
            "the engine's kv_unified: states are the same either way, but llama-server empties idle"
            " slots of a unified context",
        )
        sequences: int = option(0, "sequence ids of the context; 0: all that may run", low=0)
        snapshots: int = option(
            0, "older states of each sequence, to take back its last tokens (n_rs_seq)", low=0
        )
        ubatch: int = option(
            0, "tokens of a physical batch (the engine's default is 512); 0: the whole step", low=0
        )
        strict: bool = option(False, "do the right thing where the engine has a defect")

    options: Options

    def geometry(self) -> CacheGeometry:
        """States alone; raises `InputError` for a model with attention."""
        geometry = geometry_of(self.budget, self.name, windowed=True)
        if geometry.recurrent is None or geometry.full or geometry.swa:
            raise InputError(
                f"recurrent: expected a model of recurrent layers alone, {self.budget.model.name} "
                "has attention (hybrid, ring and iswa serve it)"
            )
        return geometry

    def sequences_of_options(self) -> int:
        """As asked for, or as many as may run."""
        asked, most = self.options.sequences, self.budget.max_seqs
        return min(asked, most) if asked else min(most, MAX_SEQ)

    def make_context(self, geometry: CacheGeometry) -> Context:
        """One for as many sequences as the bytes hold states; without ``sequences`` fewer do."""
        assert geometry.recurrent is not None
        state = recurrent_bytes(geometry.recurrent, 1, self.options.snapshots).total
        fitting = self.budget.bytes // state
        if fitting < max(1, self.options.sequences):
            raise InputError(
                f"recurrent: {self.budget.bytes} bytes of memory: expected at least those of "
                f"{max(1, self.options.sequences)} states of {state} bytes"
            )
        self.sequences = min(self.sequences, fitting)
        return Context(geometry, self.params(max(self.sequences, self.budget.max_batched_tokens)))

    def params(self, cells: int) -> ContextParams:
        """A context for batches of so many tokens; states do not depend on it."""
        return self.params_of(
            cells,
            kv_unified=self.options.streams == "unified",
            n_rs_seq=self.options.snapshots,
            strict=self.options.strict,
        )
