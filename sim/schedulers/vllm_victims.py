"""vLLM's scheduler with a choice of who is preempted when memory is short.

vLLM preempts who was admitted last (or is least urgent). What that costs depends on what the
sequence has computed: it is computed again, or swapped. Other choices are compared with it here;
everything else is vLLM's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Literal

from sim.policies.base import Policy
from sim.schedulers.vllm import VllmScheduler
from sim.schedulers.vllm_options import VllmOptions
from sim.sequence import Sequence
from workloads.errors import InputError
from workloads.plugins import option


class VictimVllmScheduler(VllmScheduler):
    """vLLM's scheduler, preempting whom ``victim`` says; ties go to who was admitted last."""

    name = "vllm-victims"

    @dataclass(frozen=True)
    class Options(VllmOptions):
        """vLLM's, and who makes room."""

        victim: Literal["last", "least-computed", "most-computed", "random"] = option(
            "last", "last admitted (vLLM), who has computed least or most, or any"
        )
        victim_seed: int = option(0, "seed of the choice of random", low=0)

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.policy != "fcfs":
                raise InputError(
                    f"vllm-victims.policy: expected fcfs ({self.policy} says itself who goes)"
                )

    def __init__(self, policy: Policy, options: Options | None = None) -> None:
        chosen = self.Options() if options is None else options
        super().__init__(policy, chosen)
        self._preempts_the_last = chosen.victim == "last"
        random = Random(chosen.victim_seed)
        self._choose: Callable[[list[Sequence]], Sequence] = {
            "last": lambda running: running[-1],
            "least-computed": lambda running: min(running, key=_computed_then_last),
            "most-computed": lambda running: max(running, key=lambda s: (s.computed, s.rank)),
            "random": random.choice,
        }[chosen.victim]

    def _victim(self) -> Sequence:
        return self._choose(self._running)


def _computed_then_last(seq: Sequence) -> tuple[int, int]:
    return seq.computed, -seq.rank
