"""Orca: iteration-level scheduling, with room reserved for all a request may become.

Source: Yu et al., "Orca: A Distributed Serving System for Transformer-Based Generative Models",
OSDI 2022, section 4.2 and algorithm 1. How the length to reserve is known: oracle, next power of
two, or the longest allowed, as Kwon et al. (SOSP 2023, section 6.1) compare them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sim.policies.base import Policy
from sim.schedulers.vllm import GATE, VllmScheduler
from sim.schedulers.vllm_options import VllmOptions
from sim.sequence import Sequence
from sim.step import Step
from workloads.errors import InputError
from workloads.plugins import option

WHOLE = 1 << 30
"""Tokens of a step without a limit."""


class Orca(VllmScheduler):
    """First come, first served, whole prompts, decodes and prompts in one step.

    A request is admitted when its reservation fits beside those of all that run. Reservations are
    counted in tokens of the memory, every layer cached in full, whatever the policy makes of it;
    where a policy runs out all the same, by rounding say, the last sequence is preempted.
    """

    name = "orca"

    @dataclass(frozen=True)
    class Options:
        """Batch size, and how much is reserved."""

        max_seqs: int = option(256, "sequences that run at once", low=1)
        max_model_len: int = option(1 << 30, "tokens of the longest sequence", low=1)
        reserve: Literal["oracle", "pow2", "max"] = option(
            "oracle", "reserve the length that a request will have, the next power of two, or most"
        )

    def __init__(self, policy: Policy, options: Options | None = None) -> None:
        """Raises `InputError` for a model that keeps states alone, which has no tokens to count."""
        if not sum(policy.cell_bytes):
            raise InputError(
                f"orca: {policy.budget.model.name} has no attention; expected a model whose "
                "memory is counted in tokens"
            )
        self._chosen = self.Options() if options is None else options
        super().__init__(
            policy,
            VllmOptions(
                max_seqs=self._chosen.max_seqs,
                max_batched_tokens=WHOLE,
                max_model_len=self._chosen.max_model_len,
                chunked_prefill=False,
            ),
        )
        self.capacity = policy.budget.bytes // sum(policy.cell_bytes)

    def reservation_of(self, seq: Sequence) -> int:
        """Tokens set aside for a sequence; never more than there are."""
        longest = self._chosen.max_model_len
        length = {
            "oracle": seq.limit,
            "pow2": 1 << (seq.limit - 1).bit_length(),
            "max": longest,
        }[self._chosen.reserve]
        return min(length, longest, self.capacity)

    def _is_reserved_out(self, seq: Sequence) -> bool:
        reserved = sum(self.reservation_of(other) for other in self.running)
        return reserved + self.reservation_of(seq) > self.capacity

    def _place(self, seq: Sequence, step: Step, budget: int) -> int:
        if self._is_reserved_out(seq):
            return self._turn_away(seq, step, GATE)
        return super()._place(seq, step, budget)

    def _nobody_comes(self) -> bool:
        if super()._nobody_comes():
            return True
        first = self._waiting.first()
        return first is self._turned_away and self._is_reserved_out(first)
