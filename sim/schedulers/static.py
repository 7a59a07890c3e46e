"""Request-level batching: a batch is formed, and the next one when its last request has ended.

Source: what Orca (OSDI 2022, section 2) describes of FasterTransformer behind Triton.
"""

from __future__ import annotations

from dataclasses import dataclass

from sim.policies.base import Policy
from sim.schedulers.orca import WHOLE
from sim.schedulers.runs import Chunks
from sim.schedulers.vllm import VllmScheduler
from sim.schedulers.vllm_options import VllmOptions
from sim.step import Step
from workloads.plugins import option


class Static(VllmScheduler):
    """Nobody joins a batch that runs. A batch takes whoever waits when the one before has ended.

    Prompts are computed whole, all in the first step. What is preempted for want of memory, where
    a policy reserves nothing, comes back with the next batch.
    """

    name = "static"

    @dataclass(frozen=True)
    class Options:
        """The size of a batch."""

        max_seqs: int = option(256, "sequences of a batch", low=1)
        max_model_len: int = option(1 << 30, "tokens of the longest sequence", low=1)

    def __init__(self, policy: Policy, options: Options | None = None) -> None:
        chosen = self.Options() if options is None else options
        super().__init__(
            policy,
            VllmOptions(
                max_seqs=chosen.max_seqs,
                max_batched_tokens=WHOLE,
                max_model_len=chosen.max_model_len,
                chunked_prefill=False,
            ),
        )

    def _admit(self, step: Step, chunks: Chunks, budget: int) -> None:
        if not self.running:
            super()._admit(step, chunks, budget)

    def _nobody_is_tried(self) -> bool:
        return True
