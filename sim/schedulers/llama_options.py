"""The options of `llama-server`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from workloads.plugins import option


@dataclass(frozen=True)
class LlamaServerOptions:
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
