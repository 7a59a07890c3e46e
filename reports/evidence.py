"""Measured differences between two runs that are worth words, each with its threshold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from reports.metrics import Summary, metric

THRESHOLDS = (
    "Named as differences are those of at least 5 points in shares of memory and of cells read, "
    "5 % in sequences running at once, 1 point in the prefix hit rate and in the share of "
    "recomputed tokens, one preemption in 100 requests, one refusal in 100 steps, and moved bytes "
    "that differ by the whole KV memory."
)
"""The numbers of `EVIDENCE` in words."""


@dataclass(frozen=True)
class Evidence:
    """A measured difference that is worth words.

    size: what is compared. least: by how much one policy has to be worse for it to be named.
    words: says it of the worse one; ``{worse}`` and ``{better}`` are the two values with units.
    relative: whether ``least`` is a share of the other's value.
    """

    size: Callable[[Summary], float | None]
    least: float
    words: str
    text: Callable[[float], str]
    higher_is_worse: bool = True
    relative: bool = False

    def between(self, worse: Summary, better: Summary) -> str | None:
        """The clause where ``worse`` is worse by the threshold or more, else None."""
        mine, other = self.size(worse), self.size(better)
        if mine is None or other is None:
            return None
        gap = mine - other if self.higher_is_worse else other - mine
        if gap < self.least * (other if self.relative else 1.0) or gap <= 0:
            return None
        return self.words.format(worse=self.text(mine), better=self.text(other))


def _stored(name: str) -> Callable[[Summary], float | None]:
    return metric(name).value_of


def _per(name: str, total: Callable[[Summary], float]) -> Callable[[Summary], float | None]:
    def ratio(summary: Summary) -> float | None:
        value, whole = metric(name).value_of(summary), total(summary)
        return None if value is None or whole == 0 else value / whole

    return ratio


def _requests(summary: Summary) -> float:
    return float(summary["requests_completed"] + summary["requests_failed"])


def _tokens(summary: Summary) -> float:
    return float(summary["total_tokens_per_s"] or 0) * float(summary["makespan_s"] or 0)


def _steps(summary: Summary) -> float:
    return float(summary["steps"])


def _memory(summary: Summary) -> float:
    return float(sum(cache["cells"] * cache["cell_bytes"] for cache in summary["caches"]))


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _times(value: float) -> str:
    return f"{value:.1f} times"


def _per_hundred(value: float) -> str:
    return f"{100 * value:.3g}"


EVIDENCE = (
    Evidence(
        _stored("running_mean"),
        0.05,
        "it ran {worse} sequences at once on average ({better})",
        lambda value: f"{value:.1f}",
        higher_is_worse=False,
        relative=True,
    ),
    Evidence(
        _stored("reserved_mean"),
        0.05,
        "{worse} of its memory was reserved for tokens to come ({better})",
        _percent,
    ),
    Evidence(
        _stored("internal_fragmentation_mean"),
        0.05,
        "{worse} of its memory was set aside unused or dead ({better})",
        _percent,
    ),
    Evidence(
        _stored("external_fragmentation_mean"),
        0.05,
        "{worse} of its memory was free in pieces too small to use ({better})",
        _percent,
    ),
    Evidence(
        _stored("excess_read_share"),
        0.05,
        "{worse} of the cells that attention read were not needed ({better})",
        _percent,
    ),
    Evidence(
        _stored("prefix_hit_rate"),
        0.01,
        "{worse} of its prompt tokens came from the prefix cache ({better})",
        _percent,
        higher_is_worse=False,
    ),
    Evidence(
        _per("preemptions", _requests),
        0.01,
        "it preempted {worse} times in 100 requests ({better})",
        _per_hundred,
    ),
    Evidence(
        _per("recomputed_tokens", _tokens),
        0.01,
        "tokens computed again were {worse} of all it served ({better})",
        _percent,
    ),
    Evidence(
        _per("alloc_failures", _steps),
        0.01,
        "it had no room for a sequence {worse} times in 100 steps ({better})",
        _per_hundred,
    ),
    Evidence(
        _per("swapped_bytes", _memory),
        1.0,
        "it swapped {worse} the size of its memory to and from the host ({better})",
        _times,
    ),
    Evidence(
        _per("defrag_bytes", _memory),
        1.0,
        "it moved {worse} the size of its memory to close holes ({better})",
        _times,
    ),
    Evidence(
        _per("cow_bytes", _memory),
        1.0,
        "it copied {worse} the size of its memory on write ({better})",
        _times,
    ),
)


def clauses_between(worse: Summary, better: Summary) -> list[str]:
    """Every measured difference against ``worse``, the value of ``better`` in brackets."""
    found = (evidence.between(worse, better) for evidence in EVIDENCE)
    return [clause for clause in found if clause is not None]
