"""What every policy of a comparison is given: the same model, the same bytes, the same limits."""

from __future__ import annotations

from dataclasses import dataclass

from sim.dtypes import kv_type
from sim.model import LayerGroup, ModelSpec


@dataclass(frozen=True)
class Budget:
    """The memory and the limits that a policy has to live with.

    bytes: K/V memory in bytes. kv_type_k, kv_type_v: names of the cache types (`sim.dtypes`).
    max_seqs: sequences that may run at once. max_batched_tokens: tokens of one step.
    max_model_len: longest sequence, prompt and output, in tokens. devices: over how many the model
    is divided; model and bytes are then those of one of them.
    """

    model: ModelSpec
    bytes: int
    kv_type_k: str = "f16"
    kv_type_v: str = "f16"
    max_seqs: int = 256
    max_batched_tokens: int = 8192
    max_model_len: int = 1 << 30
    devices: int = 1

    def cell_bytes_of(self, group: LayerGroup) -> int:
        """Bytes of K and V of one token over all layers of ``group``."""
        return group.cell_bytes(kv_type(self.kv_type_k), kv_type(self.kv_type_v))
