"""What is measured: one simulated run, or the churn of one allocator."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass
from typing import Any

GROWTH = (1, 2, 4, 10)
"""How many times the requests of the smallest run, to see how the cost grows."""
FILLS = (0.5, 0.9)
"""Shares of the memory that are taken while an allocator is timed."""
CELLS = (4_096, 32_768, 262_144)
"""Sizes of the memory in which allocators are timed, tokens."""


@dataclass(frozen=True)
class Case:
    """One process. kind: ``run`` or ``churn``. fields: a `RunConfig`'s. fill: for ``churn``."""

    name: str
    kind: str
    fields: dict[str, Any]
    fill: float = 0.0


def throughput_cases(
    common: dict[str, Any],
    policies: SequenceOf[str],
    workloads: SequenceOf[str],
    requests: int,
) -> Iterator[Case]:
    """Every policy on every workload."""
    for workload in workloads:
        for policy in policies:
            fields = common | {"workload": workload, "policy": policy, "requests": requests}
            yield Case(f"run/{title_of(workload)}/{policy}", "run", fields)


def growth_cases(
    common: dict[str, Any], policies: SequenceOf[str], workload: str, requests: int
) -> Iterator[Case]:
    """The same traffic for longer and longer."""
    for policy in policies:
        for times in GROWTH:
            fields = common | {"workload": workload, "policy": policy, "requests": requests * times}
            yield Case(f"growth/{title_of(workload)}/{policy}/{times}x", "run", fields)


def leap_cases(
    common: dict[str, Any], policies: SequenceOf[str], workload: str, requests: int
) -> Iterator[Case]:
    """Runs of steps beside single steps, with the same results."""
    for policy in policies:
        for exact in (False, True):
            fields = common | {
                "workload": workload,
                "policy": policy,
                "requests": requests,
                "exact_steps": exact,
            }
            name = "steps" if exact else "leaps"
            yield Case(f"leap/{title_of(workload)}/{policy}/{name}", "run", fields)


def churn_cases(common: dict[str, Any], policies: SequenceOf[str]) -> Iterator[Case]:
    """Sequences come and go in memory that stays as full as it is."""
    for policy in policies:
        for cells in CELLS:
            for fill in FILLS:
                fields = common | {"policy": policy, "kv_tokens": cells}
                yield Case(f"churn/{policy}/{cells}/{fill:.0%}", "churn", fields, fill)


def title_of(workload: str) -> str:
    """A workload as part of a name: a trace by its file."""
    reader, colon, path = workload.partition(":")
    return f"{reader}-{path.replace(chr(92), '/').rpartition('/')[2]}" if colon else reader
