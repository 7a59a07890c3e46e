"""The options of `vllm`, and of those derived from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from workloads.errors import InputError


@dataclass(frozen=True)
class VllmOptions:
    """vLLM's ``SchedulerConfig``.

    max_seqs: sequences that run at once. max_batched_tokens: tokens of one step.
    max_model_len: tokens of the longest sequence. long_prefill_threshold: most tokens of one
    sequence in one step, 0 for no such limit. policy: who goes first, and who is preempted.
    chunked_prefill: whether a prompt may be cut. preemption: forget and recompute, or swap to
    the host (vLLM v0).
    """

    max_seqs: int = 256
    max_batched_tokens: int = 8192
    max_model_len: int = 1 << 30
    long_prefill_threshold: int = 0
    policy: Literal["fcfs", "priority"] = "fcfs"
    chunked_prefill: bool = True
    preemption: Literal["recompute", "swap"] = "recompute"

    def __post_init__(self) -> None:
        for field in ("max_seqs", "max_batched_tokens", "max_model_len"):
            if getattr(self, field) < 1:
                raise InputError(f"vllm.{field}: expected at least 1, got {getattr(self, field)}")
        if self.long_prefill_threshold < 0:
            raise InputError(
                "vllm.long_prefill_threshold: expected at least 0,"
                f" got {self.long_prefill_threshold}"
            )
