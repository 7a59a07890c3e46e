"""The metrics of a run: one definition each, from which tables, pages and verdicts are made.

A metric is named by its path in ``summary.json``: ``goodput_rps``, or ``ttft_s.p99`` for one
statistic of a distribution.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

Summary = Mapping[str, Any]
Better = Literal["higher", "lower", "neither"]

STATISTICS = ("mean", "p50", "p90", "p95", "p99")
DISTRIBUTIONS = ("ttft_s", "tpot_s", "itl_s", "e2e_s")
VOLATILE = ("cpu_s", "events")
"""Metrics of the simulation's own cost: they differ between two equal runs, so they are shown
when the run ends and never stored."""

NO_VALUE = "–"


@dataclass(frozen=True)
class Metric:
    """How one metric is named, shown and read.

    unit: of the shown number, which is the stored one times ``scale``.
    kind: ``count`` (whole number), ``share`` (stored as 0 to 1, one decimal of a per cent) or
    ``number`` (three significant digits).
    better: which direction serves users; ``neither`` where the number says nothing by itself.
    meaning: one or two sentences, for people who meet it for the first time.
    """

    name: str
    label: str
    unit: str
    better: Better
    meaning: str
    kind: Literal["count", "share", "number"] = "number"
    scale: float = 1.0

    def value_of(self, summary: Summary) -> float | None:
        """The stored value, or None where the run has none (no request finished, say)."""
        found: Any = summary
        for key in self.name.split("."):
            found = found.get(key) if isinstance(found, Mapping) else None
        return None if found is None else float(found)

    def text(self, value: float | None) -> str:
        """The number as it is shown, without its unit."""
        if value is None:
            return NO_VALUE
        if self.kind == "count":
            # The median of an even number of counts may lie between two of them.
            is_half = value % 1 == 0.5 and abs(value) < 10
            return f"{value:,.1f}" if is_half else f"{value:,.0f}"
        if self.kind == "share":
            return f"{100 * value:.1f}"
        return three_digits(value * self.scale)

    def text_with_unit(self, value: float | None) -> str:
        """The number and its unit, for running text."""
        return f"{self.text(value)} {self.unit}" if self.unit else self.text(value)


def three_digits(value: float) -> str:
    """Three significant digits without an exponent: 0.0123, 1.23, 123, 12,345."""
    if value == 0:
        return "0"
    text = f"{value:#.3g}"
    if "e" not in text:
        return text.removesuffix(".")
    return f"{value:,.0f}" if abs(value) >= 1 else f"{value:.2e}"


def _count(name: str, label: str, better: Better, meaning: str, unit: str = "") -> Metric:
    return Metric(name, label, unit, better, meaning, kind="count")


def _share(name: str, label: str, better: Better, meaning: str) -> Metric:
    return Metric(name, label, "%", better, meaning, kind="share")


def _moved(name: str, label: str, meaning: str) -> Metric:
    return Metric(name, label, "GiB", "lower", meaning, scale=2.0**-30)


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        _count("requests_completed", "Done", "higher", "Requests that got all their output."),
        _count(
            "requests_failed",
            "Failed",
            "lower",
            "Requests given up, for example because they can never fit. They count in no latency.",
        ),
        Metric(
            "makespan_s",
            "Makespan",
            "s",
            "lower",
            "Simulated time from the start to the end of the last request.",
        ),
        Metric(
            "output_tokens_per_s",
            "Output",
            "tok/s",
            "higher",
            "Output tokens of finished requests divided by the makespan.",
        ),
        Metric(
            "total_tokens_per_s",
            "Prompt + output",
            "tok/s",
            "higher",
            "Prompt and output tokens of finished requests divided by the makespan.",
        ),
        Metric(
            "goodput_rps",
            "Goodput",
            "req/s",
            "higher",
            "Requests that finished within the stated latency objectives, divided by the makespan.",
        ),
        _share(
            "slo_share",
            "In time",
            "higher",
            "Share of all requests that finished within the stated latency objectives.",
        ),
        Metric(
            "ttft_s",
            "TTFT",
            "s",
            "lower",
            "Time to first token: from the arrival of a request to its first output token, "
            "waiting included.",
        ),
        Metric(
            "tpot_s",
            "TPOT",
            "ms",
            "lower",
            "Time per output token: the mean gap between the output tokens of a request. A "
            "request with one output token has none.",
            scale=1e3,
        ),
        Metric(
            "itl_s",
            "ITL",
            "ms",
            "lower",
            "Inter-token latency: every single gap between two output tokens of a request; several "
            "that arrive at once count as one. Its tail shows stalls that TPOT averages away.",
            scale=1e3,
        ),
        Metric(
            "e2e_s",
            "E2E",
            "s",
            "lower",
            "End-to-end latency: from the arrival of a request to its last output token.",
        ),
        Metric(
            "fairness",
            "Fairness",
            "",
            "higher",
            "Jain's index of the paces (output tokens divided by end-to-end latency) of all "
            "sequences: 1 where all were served at the same pace, 1/n where one of n got "
            "everything. A sequence that failed has no pace.",
        ),
        _share(
            "kv_utilization_mean",
            "KV live",
            "neither",
            "KV utilisation: share of the KV memory that holds tokens which some sequence can "
            "still attend to, averaged over time. High is good where requests wait for memory; "
            "sharing and windows lower it for the same traffic.",
        ),
        _share(
            "kv_utilization_peak",
            "KV live, peak",
            "neither",
            "The highest KV utilisation at any time.",
        ),
        _share(
            "reserved_mean",
            "Reserved",
            "lower",
            "Share of the KV memory set aside for tokens that will come, averaged over time.",
        ),
        _share(
            "internal_fragmentation_mean",
            "Internal",
            "lower",
            "Internal fragmentation: share of the KV memory that is set aside and never used, or "
            "dead (masked for good but not given back), averaged over time.",
        ),
        _share(
            "external_fragmentation_mean",
            "External",
            "lower",
            "External fragmentation: share of the KV memory that is free but lies in pieces too "
            "small for the request that wants it, averaged over time.",
        ),
        _count(
            "preemptions",
            "Preempted",
            "lower",
            "Times that a running sequence lost its memory to another and had to come back.",
            unit="times",
        ),
        _count(
            "recomputed_tokens",
            "Recomputed",
            "lower",
            "Tokens whose K/V was computed once more because it had been given up.",
            unit="tokens",
        ),
        _moved("swapped_bytes", "Swapped", "K/V moved to and from host memory."),
        _moved("cow_bytes", "Copied on write", "K/V copied because a shared block was written."),
        _moved("defrag_bytes", "Defragmented", "K/V moved to close holes."),
        _moved(
            "moved_bytes",
            "Moved",
            "K/V moved on the device for other reasons: to another stream, into a larger "
            "reservation, into a summary.",
        ),
        _moved("shifted_bytes", "Shifted", "Keys rotated to other positions (context shift)."),
        _count(
            "prefix_hit_tokens",
            "Prefix hits",
            "higher",
            "Prompt tokens whose K/V was found in the prefix cache instead of being computed.",
            unit="tokens",
        ),
        _share(
            "prefix_hit_rate",
            "Hit rate",
            "higher",
            "Prefix hits divided by all prompt tokens (token-weighted).",
        ),
        _count(
            "evictions",
            "Evicted",
            "neither",
            "Blocks of the prefix cache (pages in radix) that others could still have found, given "
            "up to make room. A policy that keeps nothing for others gives nothing up.",
            unit="blocks",
        ),
        _count(
            "alloc_failures",
            "Refused",
            "lower",
            "Times that the policy had no room for a sequence which was to run.",
            unit="times",
        ),
        _count(
            "find_slot_failures",
            "No slot found",
            "lower",
            "Times that a batch of llama-server found no cells: idle slots were emptied for it, or "
            "all requests under way failed.",
            unit="times",
        ),
        _count(
            "reprocessed_tokens",
            "Reprocessed",
            "lower",
            "Prompt tokens that a slot held and processed again, because its windows or states had "
            "passed them and no checkpoint was left.",
            unit="tokens",
        ),
        _count(
            "checkpoints_restored",
            "Restored",
            "neither",
            "Times that a slot went back to a context checkpoint.",
            unit="times",
        ),
        _moved(
            "checkpoint_peak_bytes",
            "Checkpoints, peak",
            "The most that context checkpoints of slots ever took of host memory.",
        ),
        _moved(
            "prompt_cache_peak_bytes",
            "Prompt cache, peak",
            "The most that prompts without a slot ever took of host memory.",
        ),
        _count(
            "drafted_tokens",
            "Drafted",
            "neither",
            "Tokens that were drafted and verified (speculative decoding).",
            unit="tokens",
        ),
        _count(
            "accepted_tokens",
            "Accepted",
            "neither",
            "Drafted tokens that the model accepted, those behind the end of a request included.",
            unit="tokens",
        ),
        _share(
            "acceptance_rate",
            "Acceptance",
            "higher",
            "Share of the drafted tokens that were accepted.",
        ),
        Metric(
            "acceptance_length",
            "Acceptance length",
            "tokens",
            "higher",
            "Tokens that a verified draft brings on average, the model's own included.",
        ),
        Metric(
            "decode_tokens_per_step",
            "Tokens a step",
            "tokens",
            "higher",
            "Tokens that a decoding sequence gets in a step on average, steps without drafts "
            "included.",
        ),
        _count("steps", "Steps", "neither", "Engine steps."),
        Metric(
            "running_mean",
            "Running",
            "sequences",
            "neither",
            "Sequences running at once, averaged over time.",
        ),
        _share(
            "excess_read_share",
            "Excess reads",
            "lower",
            "Share of the cells loaded by attention that it did not need: dead, or another "
            "sequence's.",
        ),
        Metric(
            "cpu_s",
            "CPU",
            "s",
            "neither",
            "Processor time of the simulation itself, imports and reports apart.",
        ),
        _count(
            "events",
            "Events",
            "neither",
            "Steps and runs of steps that the simulation took one by one.",
        ),
    )
}
"""All metrics by name, distributions once each, in the order in which pages show them."""

SCHEDULERS_OWN = (
    "find_slot_failures",
    "reprocessed_tokens",
    "checkpoints_restored",
    "checkpoint_peak_bytes",
    "prompt_cache_peak_bytes",
    "drafted_tokens",
    "accepted_tokens",
    "acceptance_rate",
    "acceptance_length",
    "decode_tokens_per_step",
)
"""Metrics that only some schedulers count, or only with drafts."""

OPTIONAL = (
    "running_mean",
    "excess_read_share",
    "slo_share",
    "fairness",
    "evictions",
    "moved_bytes",
    "shifted_bytes",
    *SCHEDULERS_OWN,
    *VOLATILE,
)
"""Metrics that a summary may lack."""

REQUIRED = tuple(name for name in METRICS if name not in OPTIONAL)


def metric_names() -> list[str]:
    """Every metric that a stored summary can have, distributions by statistic."""
    return [
        f"{name}.{statistic}" if statistic else name
        for name in METRICS
        if name not in VOLATILE
        for statistic in (STATISTICS if name in DISTRIBUTIONS else ("",))
    ]


def metric(name: str) -> Metric:
    """The metric at a path of the summary; a statistic of a distribution gets its own label."""
    base, _, statistic = name.partition(".")
    found = METRICS[base]
    return replace(found, name=name, label=f"{found.label} {statistic}") if statistic else found
