"""Figures of a cluster as such: who did how much, and what the links carried."""

from __future__ import annotations

from typing import Any

from sim.cluster.cluster import Cluster, Pool
from sim.cluster.disaggregated import Disaggregated
from sim.cluster.tiers import Tiers, summary_of
from sim.engine import Engine


def cluster_summary(cluster: Cluster) -> dict[str, Any]:
    """Per replica and per pool, as plain data; shares of time are shares of the makespan.

    busy_share: time in which a replica computed a step. imbalance: busy time of the busiest
    replica of a pool over the mean of the pool; 1 where all have done the same. tiers: tokens of
    prompts found on the device and in each tier, and their share of all prompts' tokens.
    """
    ticks = _makespan(cluster)
    pools = {"serving": cluster.pool}
    if isinstance(cluster, Disaggregated):
        pools = {"prefill": cluster.prefill, "decode": cluster.pool}
    summary: dict[str, Any] = {
        "replicas": [
            {"role": role, "requests": pool.taken[place]} | _replica(engine, ticks)
            for role, pool in pools.items()
            for place, engine in enumerate(pool.engines)
        ],
        "imbalance": {role: _imbalance(pool) for role, pool in pools.items()},
    }
    tiers = _tiers(cluster)
    if tiers:
        summary["tiers"] = tiers
    if isinstance(cluster, Disaggregated):
        summary["link"] = {
            "bytes": cluster.link.bytes_carried,
            "busy_share": cluster.link.busy_ticks / ticks,
        }
    return summary


def _makespan(cluster: Cluster) -> int:
    return max(1, *(engine.recorder.log.last_end for engine in cluster.engines))


def _replica(engine: Engine, ticks: int) -> dict[str, Any]:
    recorder = engine.recorder
    usage = recorder.usage()
    tiers = _tiers_of(engine)
    capacity = sum(part.capacity * part.cell_bytes for part in usage)
    live = sum(
        totals["live"] * part.cell_bytes
        for totals, part in zip(recorder.occupancy, usage, strict=False)
    )
    plain: dict[str, Any] = {
        "busy_share": recorder.busy_ticks / ticks,
        "steps": recorder.counts["steps"],
        "prompt_tokens": recorder.counts["prompt_tokens"],
        "output_tokens": recorder.counts["output_tokens"],
        "prefix_hit_tokens": int(sum(recorder.rows.column("prefix_hit_tokens"))),
        "kv_utilization_mean": live / (capacity * ticks) if capacity else 0.0,
    }
    return plain | ({"tiers": summary_of(tiers)} if tiers else {})


def _tiers(cluster: Cluster) -> list[dict[str, Any]]:
    """The device and every tier, over all replicas together."""
    found = [tiers for engine in cluster.engines for tiers in _tiers_of(engine)]
    return summary_of(found) if found else []


def _tiers_of(engine: Engine) -> list[Tiers]:
    return [hook for hook in engine.hooks if isinstance(hook, Tiers)]


def _imbalance(pool: Pool) -> float:
    busy = [engine.recorder.busy_ticks for engine in pool.engines]
    return max(busy) * len(busy) / sum(busy) if sum(busy) else 1.0
