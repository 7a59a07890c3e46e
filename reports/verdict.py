"""Which policy serves best, by how much, and which measured differences go with it, in words.

The words follow from the summaries alone. A policy leads by goodput; where that is within 1 %,
by output tokens a second; where that is too, by p99 TTFT. A measured difference is named only
where it passes its threshold in `reports.evidence`; nothing is said about causes that were not
measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from reports.evidence import THRESHOLDS, clauses_between
from reports.metrics import Metric, Summary, metric

CRITERIA = ("goodput_rps", "output_tokens_per_s", "ttft_s.p99")
NEGLIGIBLE = 0.01

RULE = (
    "Policies are ranked by goodput, then output tokens/s, then p99 TTFT; differences below 1 % "
    f"do not count. {THRESHOLDS}"
)


@dataclass(frozen=True)
class Verdict:
    """leaders: the best policy, or all that tie. headline: one sentence. details: the reasons."""

    leaders: tuple[str, ...]
    headline: str
    details: tuple[str, ...]

    @property
    def lines(self) -> tuple[str, ...]:
        """All sentences, the rule last."""
        return (self.headline, *self.details, RULE)


def _is_close(one: float | None, other: float | None) -> bool:
    if one is None or other is None:
        return one is other
    return one == other or abs(one - other) < NEGLIGIBLE * max(abs(one), abs(other))


def _best_value(name: str, values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    if not known:
        return None
    return max(known) if metric(name).better == "higher" else min(known)


def fallen_of(summaries: Mapping[str, Summary]) -> dict[str, str]:
    """The criterion by which each policy falls behind; those that never do are the leaders."""
    fallen: dict[str, str] = {}
    for name in CRITERIA:
        values = {p: metric(name).value_of(s) for p, s in summaries.items() if p not in fallen}
        best = _best_value(name, list(values.values()))
        fallen |= {p: name for p, value in values.items() if not _is_close(value, best)}
    return fallen


def ranking_of(summaries: Mapping[str, Summary]) -> list[str]:
    """All policies, the best first; those that the rule cannot tell apart in the given order."""
    order: list[str] = []
    while len(order) < len(summaries):
        left = {p: summary for p, summary in summaries.items() if p not in order}
        fallen = fallen_of(left)
        order += [p for p in left if p not in fallen]
    return order


def verdict_of(summaries: Mapping[str, Summary]) -> Verdict:
    """The verdict on one summary a policy, in the order in which they are to be named."""
    caveats = tuple(
        _failed(policy, summary)
        for policy, summary in summaries.items()
        if summary["requests_failed"]
    )
    caveats += tuple(
        _lossy(policy, summary) for policy, summary in summaries.items() if summary.get("lossy")
    )
    if not any(summary["requests_completed"] for summary in summaries.values()):
        return Verdict((), "No policy finished a request, so none serves best.", caveats)
    fallen = fallen_of(summaries)
    leaders = [policy for policy in summaries if policy not in fallen]
    if not fallen:
        return Verdict(tuple(leaders), _nobody_fell(summaries), caveats)
    best, others = leaders[0], [p for p in ranking_of(summaries) if p in fallen]
    details = [_comparison(policy, best, fallen[policy], summaries) for policy in others]
    against = clauses_between(summaries[best], summaries[others[0]])
    if against:
        details.append(f"Against {best}, with {others[0]} in brackets: {'; '.join(against)}.")
    headline = _headline(leaders, others[0], fallen[others[0]], summaries)
    if any(summaries[policy].get("lossy") for policy in leaders):
        headline += " (It is lossy.)" if len(leaders) == 1 else " (Not all of them are exact.)"
    return Verdict(tuple(leaders), headline, (*details, *caveats))


def _in_words(shown: Metric) -> str:
    """The label within a sentence; abbreviations stay as they are."""
    label = shown.label
    return label[0].lower() + label[1:] if label[1].islower() else label


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _nobody_fell(summaries: Mapping[str, Summary]) -> str:
    if len(summaries) > 1:
        return (
            f"{_listed(list(summaries))} serve equally well: the differences in goodput, output "
            "tokens/s and p99 TTFT are negligible (below 1 %)."
        )
    ((policy, summary),) = summaries.items()
    shown = (metric(name) for name in CRITERIA)
    numbers = ", ".join(f"{_in_words(m)} {m.text_with_unit(m.value_of(summary))}" for m in shown)
    return f"Only {policy} ran, so there is nothing to compare it with: {numbers}."


def _headline(
    leaders: Sequence[str], runner_up: str, criterion: str, summaries: Mapping[str, Summary]
) -> str:
    shown = metric(criterion)
    mine, other = (shown.value_of(summaries[one]) for one in (leaders[0], runner_up))
    serves = "serves best" if len(leaders) == 1 else "serve best and equally well"
    alike = [_in_words(metric(name)) for name in CRITERIA[: CRITERIA.index(criterion)]]
    but = f" {_listed(alike)} alike, but" if alike else ""
    by = _by_how_much(mine, other)
    return (
        f"{_listed(leaders)} {serves}:{but} {_in_words(shown)} {shown.text_with_unit(mine)} "
        f"against {shown.text_with_unit(other)} of {runner_up}, the next best{by}."
    )


def _by_how_much(mine: float | None, other: float | None) -> str:
    if not mine or not other:
        return ""
    if mine >= 2 * other:
        return f" ({mine / other:.1f} times as much)"
    return f" ({100 * abs(mine / other - 1):.1f} % {'more' if mine > other else 'less'})"


def _comparison(policy: str, best: str, criterion: str, summaries: Mapping[str, Summary]) -> str:
    shown = metric(criterion)
    mine, other = (shown.value_of(summaries[one]) for one in (policy, best))
    clauses = clauses_between(summaries[policy], summaries[best])
    start = f"{policy}: {_in_words(shown)} {shown.text_with_unit(mine)}{_by_how_much(mine, other)}"
    if not clauses:
        return f"{start}; no other measured difference from {best} passes its threshold."
    return f"{start}. Measured differences, {best} in brackets: {'; '.join(clauses)}."


def _failed(policy: str, summary: Summary) -> str:
    total = summary["requests_completed"] + summary["requests_failed"]
    return (
        f"{policy} failed {summary['requests_failed']:,} of {total:,} requests; its latencies "
        "count only those that finished."
    )


def _lossy(policy: str, summary: Summary) -> str:
    return (
        f"{policy} is lossy: {summary['lossy']}. It does less work than the others, and its "
        "numbers say nothing of what that does to the output."
    )
