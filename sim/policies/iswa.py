"""`iswa`: llama.cpp's cache for interleaved windows, a full one and a windowed one side by side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sim.llamacpp.geometry import CacheGeometry
from sim.llamacpp.sizes import ContextParams
from sim.policies.llamacpp import LlamaPolicy
from sim.policies.llamacpp_geometry import geometry_of, with_attention
from workloads.plugins import option


class ISWA(LlamaPolicy):
    """llama.cpp's iSWA: windowed layers keep window-sized caches whose cells are overwritten.

    The bytes are divided as the engine sizes its caches: the windowed cache gets
    ``window * max_seqs + ubatch`` cells (rounded up to 256, at most those of the full cache), and
    the full cache as many as the rest of the bytes gives. For a model without windows it is
    `ring`.
    """

    name = "iswa"

    @dataclass(frozen=True)
    class Options:
        """How the two caches are sized and shared."""

        streams: Literal["unified", "per-sequence"] = option(
            "unified", "one pair of caches for all sequences, or one each"
        )
        swa_full: bool = option(False, "windowed layers get as many cells as the others")
        ubatch: int = option(
            0, "tokens of a physical batch (the engine's default is 512); 0: the whole step", low=0
        )
        strict: bool = option(False, "do the right thing where the engine has a defect")

    options: Options

    def geometry(self) -> CacheGeometry:
        """Full layers and windowed layers in a cache each."""
        return with_attention(geometry_of(self.budget, self.name, windowed=True), self.name)

    def params(self, cells: int) -> ContextParams:
        """A context of so many cells in its full cache."""
        options = self.options
        return self.params_of(
            cells,
            kv_unified=options.streams == "unified",
            swa_full=options.swa_full,
            strict=options.strict,
        )
