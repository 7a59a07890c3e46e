"""Iteration-level scheduling with whole prompts: vLLM's rules without chunked prefill."""

from __future__ import annotations

from dataclasses import dataclass

from sim.policies.base import Policy
from sim.schedulers.vllm import VllmScheduler
from sim.schedulers.vllm_options import VllmOptions
from sim.sequence import Sequence
from workloads.plugins import option


class FcfsNoChunk(VllmScheduler):
    """First come, first served; a prompt is computed in one step or waits for the next.

    The first request that does not fit into what is left of the step holds up all behind it.
    """

    name = "fcfs-no-chunk"

    @dataclass(frozen=True)
    class Options:
        """Limits of a step."""

        max_seqs: int = option(256, "sequences that run at once", low=1)
        max_batched_tokens: int = option(8192, "tokens of one step", low=1)
        max_model_len: int = option(1 << 30, "tokens of the longest sequence", low=1)

    def __init__(self, policy: Policy, options: Options | None = None) -> None:
        chosen = self.Options() if options is None else options
        super().__init__(
            policy,
            VllmOptions(
                max_seqs=chosen.max_seqs,
                max_batched_tokens=chosen.max_batched_tokens,
                max_model_len=chosen.max_model_len,
                chunked_prefill=False,
            ),
        )

    def misfit_of(self, seq: Sequence) -> str:
        """Nothing longer than a step can be computed, or computed again after a preemption."""
        most = self.options.max_batched_tokens
        if seq.limit > most:
            return f"longer than the tokens of one step ({most}), which nothing may be cut to"
        return super().misfit_of(seq)
