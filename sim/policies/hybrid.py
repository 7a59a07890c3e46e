"""`hybrid`: llama.cpp's memory of models with attention and recurrent layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sim.llamacpp.geometry import CacheGeometry
from sim.llamacpp.sizes import ContextParams
from sim.policies.llamacpp import LlamaPolicy
from sim.policies.llamacpp_geometry import geometry_of
from workloads.errors import InputError
from workloads.plugins import option


class Hybrid(LlamaPolicy):
    """llama.cpp's attention caches and recurrent states side by side.

    Every sequence id has a state of its own from the start; what these leave of the bytes goes
    into cells, divided between full and windowed layers as `iswa` does it. All tokens of a ubatch
    are placed in both halves or in neither, and its sequences have equally many of them.
    """

    name = "hybrid"

    @dataclass(frozen=True)
    class Options:
        """How the halves are sized and shared."""

        streams: Literal["unified", "per-sequence"] = option(
            "unified", "attention cells in one array for all sequences, or one each"
        )
        swa_full: bool = option(False, "windowed layers get as many cells as the others")
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
        """Both kinds of caches; raises `InputError` for a model without one of them."""
        geometry = geometry_of(self.budget, self.name, windowed=True)
        if geometry.recurrent is None or not (geometry.full or geometry.swa):
            raise InputError(
                f"hybrid: expected a model with attention and recurrent layers, "
                f"{self.budget.model.name} has only one kind"
            )
        return geometry

    def sequences_of_options(self) -> int:
        """As asked for, or as many as may run."""
        asked, most = self.options.sequences, self.budget.max_seqs
        return min(asked, most) if asked else most

    def params(self, cells: int) -> ContextParams:
        """A context of so many cells in its full cache."""
        options = self.options
        return self.params_of(
            cells,
            kv_unified=options.streams == "unified",
            swa_full=options.swa_full,
            n_rs_seq=options.snapshots,
            strict=options.strict,
        )
