"""Earliest deadline first: whoever must have the first token soonest is admitted first.

Source of the rule: Liu and Layland, JACM 1973, section 7 (deadline-driven scheduling); the
deadline is the arrival plus the TTFT objective of the request's service class.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from sim.policies.base import Policy
from sim.schedulers.queues import WaitingQueue
from sim.schedulers.vllm import VllmScheduler
from sim.schedulers.vllm_options import VllmOptions
from sim.sequence import Sequence
from workloads.errors import InputError
from workloads.plugins import option


class DeadlineQueue(WaitingQueue):
    """By deadline, then in order of arrival at the engine. ``ttft_s``: seconds by service class."""

    def __init__(self, ttft_s: Mapping[str, float]) -> None:
        self._ttft_s = ttft_s
        self._heap: list[tuple[float, int, Sequence]] = []

    def __len__(self) -> int:
        return len(self._heap)

    def __iter__(self) -> Iterator[Sequence]:
        return (entry[2] for entry in sorted(self._heap, key=lambda entry: entry[:2]))

    def __contains__(self, seq: object) -> bool:
        return any(other is seq for _, _, other in self._heap)

    def deadline_of(self, seq: Sequence) -> float:
        """When ``seq`` must have its first token; classes without an objective use ``default``."""
        ttft_s = self._ttft_s.get(seq.request.slo_class, self._ttft_s["default"])
        return seq.arrival + ttft_s

    def push(self, seq: Sequence) -> None:
        """To its place."""
        heapq.heappush(self._heap, (self.deadline_of(seq), seq.id, seq))

    def put_back(self, seq: Sequence) -> None:
        """To its place, like a new one."""
        self.push(seq)

    def first(self) -> Sequence:
        """The one with the earliest deadline."""
        return self._heap[0][2]

    def pop(self) -> Sequence:
        """Take the first out."""
        return heapq.heappop(self._heap)[2]

    def remove(self, seq: Sequence) -> None:
        """Take one out; `ValueError` if it does not wait."""
        if seq not in self:
            raise ValueError(f"{seq!r} does not wait")
        self._heap = [entry for entry in self._heap if entry[2] is not seq]
        heapq.heapify(self._heap)


class EarliestDeadline(VllmScheduler):
    """vLLM's scheduling, except that requests are admitted by deadline.

    Who runs is not preempted for an earlier deadline, and a deadline that has passed still counts.
    """

    name = "slo"

    @dataclass(frozen=True)
    class Options:
        """Limits of a step, and objectives."""

        max_seqs: int = option(256, "sequences that run at once", low=1)
        max_batched_tokens: int = option(8192, "tokens of one step", low=1)
        max_model_len: int = option(1 << 30, "tokens of the longest sequence", low=1)
        ttft_s: dict[str, float] = field(
            default_factory=lambda: {"default": 2.0},
            metadata={"text": "seconds to the first token by service class; the setting's slo"},
        )

        def __post_init__(self) -> None:
            if "default" not in self.ttft_s:
                raise InputError("slo: ttft_s: expected an objective for the class 'default'")

    def __init__(self, policy: Policy, options: Options | None = None) -> None:
        chosen = self.Options() if options is None else options
        super().__init__(
            policy,
            VllmOptions(
                max_seqs=chosen.max_seqs,
                max_batched_tokens=chosen.max_batched_tokens,
                max_model_len=chosen.max_model_len,
            ),
        )
        self._waiting = DeadlineQueue(chosen.ttft_s)
