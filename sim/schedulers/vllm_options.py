"""The options of `vllm`, and of those derived from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from workloads.plugins import check_options, option


@dataclass(frozen=True)
class VllmOptions:
    """vLLM's ``SchedulerConfig``."""

    max_seqs: int = option(256, "sequences that run at once", low=1)
    max_batched_tokens: int = option(8192, "tokens of one step", low=1)
    max_model_len: int = option(1 << 30, "tokens of the longest sequence", low=1)
    long_prefill_threshold: int = option(
        0, "most tokens of one sequence in one step; 0: no such limit", low=0
    )
    policy: Literal["fcfs", "priority"] = option("fcfs", "who goes first, and who is preempted")
    chunked_prefill: bool = option(True, "a prompt may be cut")
    preemption: Literal["recompute", "swap"] = option(
        "recompute", "forget and recompute, or swap to the host (vLLM v0)"
    )

    def __post_init__(self) -> None:
        check_options(self)
