"""What a cluster did, in a few lines of text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

_GIB = 2.0**30


def cluster_lines(summaries: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Lines on every run of several replicas or with tiers; none for the others."""
    for policy, summary in summaries.items():
        cluster = summary.get("cluster")
        if cluster is not None:
            yield from _lines(policy, cluster)


def _lines(policy: str, cluster: Mapping[str, Any]) -> Iterator[str]:
    replicas = cluster["replicas"]
    for role, imbalance in cluster["imbalance"].items():
        busy = [each["busy_share"] for each in replicas if each["role"] == role]
        if len(replicas) > 1:
            shares = ", ".join(f"{100 * share:.1f}" for share in busy)
            yield (
                f"{policy}: {role} replicas were busy {shares} % of the time; the busiest"
                f" {imbalance:.2f} times the mean."
            )
    if "link" in cluster:
        link = cluster["link"]
        yield (
            f"{policy}: the link carried {link['bytes'] / _GIB:.3g} GiB and was busy"
            f" {100 * link['busy_share']:.1f} % of the time."
        )
    if "tiers" in cluster:
        rates = ", ".join(
            f"{tier['name']} {100 * tier['hit_rate']:.1f} %" for tier in cluster["tiers"]
        )
        yield f"{policy}: prompt tokens found on {rates}."
