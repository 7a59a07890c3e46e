"""A workload in words: its statistics as lines of text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def lines_of(summary: dict[str, Any]) -> list[str]:
    """The lines that describe ``summary``, as `Statistics.summary` makes it."""
    return [*_requests(summary), *_lengths(summary), *_arrivals(summary), *_prefix(summary)]


def _requests(summary: dict[str, Any]) -> Iterator[str]:
    waiting, clients = summary["waiting_requests"], summary["clients"]
    line = f"{summary['requests']:,} requests in {summary['sessions']:,} sessions"
    if waiting:
        line += f", {waiting:,} of them wait for the end of others"
    if clients is not None:
        line += f"; a closed loop of {clients:,} clients"
    yield f"{summary['workload']}: {line}"
    if len(summary["slo_classes"]) > 1:
        parts = ", ".join(f"{name} {count:,}" for name, count in summary["slo_classes"].items())
        yield f"Service classes: {parts}"
    if summary["most_samples"] > 1:
        yield f"Parallel samples: up to {summary['most_samples']}"
    if summary["widest_beam"] > 1:
        yield f"Beam search: up to {summary['widest_beam']} beams"


def _lengths(summary: dict[str, Any]) -> Iterator[str]:
    columns = ("mean", "p50", "p90", "p99", "max", "total")
    yield f"{'tokens':8}" + "".join(f"{name:>14}" for name in columns)
    for kind in ("prompt", "output"):
        values = summary[f"{kind}_tokens"]
        yield f"{kind:8}" + "".join(f"{round(values[name]):>14,}" for name in columns)


def _arrivals(summary: dict[str, Any]) -> Iterator[str]:
    arrivals, concurrency = summary["arrivals"], summary["concurrency"]
    pace = f"{concurrency['seconds_per_token']:g} s a token and no waiting"
    if arrivals["requests_per_s"] is None:
        yield f"Arrivals: all at {arrivals['first_s']:g} s"
    else:
        span = arrivals["last_s"] - arrivals["first_s"]
        nominal = f" (nominal, with {pace})" if arrivals["nominal"] else ""
        yield (
            f"Arrivals{nominal}: {arrivals['requests_per_s']:.4g} requests/s over {span:,.1f} s, "
            f"coefficient of variation of gaps {arrivals['gap_cv']:.2f}, "
            f"at most {arrivals['most_in_10_s']:,} within 10 s"
        )
    if concurrency["mean"] is not None:
        yield (
            f"Under way (nominal, with {pace}): {concurrency['mean']:,.1f} on average, "
            f"{concurrency['most']:,} at most"
        )


def _prefix(summary: dict[str, Any]) -> Iterator[str]:
    prefix = summary["prefix"]
    yield f"Shared prefixes known to the workload: {prefix['identity']}"
    if not prefix["shared_prompt_tokens"] and not prefix["ideal_hit_rate_tokens"]:
        return
    yield (
        f"Prefix sharing: {prefix['shared_prompt_tokens']:.1%} of prompt tokens stand in another "
        f"prompt too; {prefix['groups']:,} groups, depth {prefix['depth']}; "
        f"{prefix['distinct_prompt_tokens']:,} distinct tokens"
    )
    blocks = f", blocks of {prefix['block_size']}" if prefix["block_size"] > 1 else ""
    yield (
        f"Ideal hit rate (unlimited cache{blocks}): {prefix['ideal_hit_rate_tokens']:.1%} of "
        f"prompt tokens, {prefix['ideal_hit_rate_requests']:.1%} as the mean over requests"
    )
    sizes = summary["reuse"]["lru_tokens_for_share_of_ideal"]
    if sizes is not None:
        parts = ", ".join(f"{share} with {size:,} tokens" for share, size in sizes.items())
        yield f"Of these hits an LRU cache has {parts}"
