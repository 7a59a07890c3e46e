"""The figures of a run, from what the recorder wrote down.

Shares of memory are shares of all cells, weighted by time over the whole run: a cache that stands
idle counts as empty. Percentiles of request latencies interpolate linearly; those of inter-token
latencies are the smallest latency that at least that share of all tokens does not exceed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from sim.clock import TICKS_PER_SECOND
from sim.recorder import Recorder
from sim.request_rows import FLOATS, INTEGERS, WORDS
from sim.step_times import StepTimes

QUANTILES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}
CDF_POINTS = 200
ROWS_AT_ONCE = 1024
"""Sequences whose steps are written out together."""
Floats = NDArray[np.float64]
Spread = dict[str, float | None]
T = TypeVar("T")


@dataclass(frozen=True)
class Objectives:
    """What a request has to meet to count as good: first token and time per token, seconds."""

    ttft_s: float = 2.0
    tpot_s: float = 0.1


def request_columns(recorder: Recorder) -> dict[str, Any]:
    """One row a sequence, in order of completion: identity, latencies (seconds), costs."""
    columns: dict[str, Any] = {name: recorder.rows.column(name) for name in (*FLOATS, *INTEGERS)}
    arrival, first, finish = (columns[c] for c in ("arrival_s", "first_token_s", "finish_s"))
    outputs = columns["output"]
    several = np.where(outputs > 1, outputs - 1, np.nan)
    columns |= {
        "queue_s": columns.pop("first_scheduled_s") - arrival,
        "ttft_s": columns.pop("first_token_s") - arrival,
        "tpot_s": (finish - first) / several,
        "e2e_s": finish - arrival,
    }
    columns |= {name: recorder.rows.column(name) for name in WORDS}
    times = StepTimes(recorder.log)
    return columns | _itl_columns(recorder, times) | _lives(recorder, times)


def _lives(recorder: Recorder, times: StepTimes) -> dict[str, list[Any]]:
    """Where each sequence paused, and from when to when it got its tokens without a break."""
    steps = [step for row in recorder.stretches for stretch in row for step in stretch]
    moments = iter(times.ends_at(np.array(steps, dtype=np.int64)).tolist())
    return {
        "stretches_s": [list(islice(moments, 2 * len(row))) for row in recorder.stretches],
        "pauses_s": recorder.pauses,
        "pause_kinds": recorder.pause_kinds,
    }


def _itl_columns(recorder: Recorder, times: StepTimes) -> dict[str, Floats]:
    """Median, 99th percentile and maximum of the inter-token latencies of every sequence."""
    table = np.full((len(recorder.stretches), 3), np.nan)
    # Sequences that ended one after the other shared most of their steps.
    for rows in _batches(zip(table, recorder.stretches, strict=True)):
        steps = [step for _, stretches in rows for stretch in stretches for step in stretch]
        start = min(steps, default=0)
        ends = times.ends_between(start, max(steps, default=-1) + 1)
        for row, stretches in rows:
            if stretches:
                parts = [ends[first - start : last + 1 - start] for first, last in stretches]
                gaps = np.sort(np.diff(np.concatenate(parts)))
                if len(gaps):
                    row[:] = gaps[_rank(0.5, len(gaps))], gaps[_rank(0.99, len(gaps))], gaps[-1]
    return {name: table[:, i] for i, name in enumerate(("itl_p50_s", "itl_p99_s", "itl_max_s"))}


def _batches(rows: Iterable[T]) -> Iterator[list[T]]:
    """Lists of `ROWS_AT_ONCE` of them, the last may be shorter."""
    left = iter(rows)
    while batch := list(islice(left, ROWS_AT_ONCE)):
        yield batch


def _rank(share: float, n: int) -> int:
    return max(0, int(np.ceil(share * n)) - 1)


def inter_token_latencies(recorder: Recorder) -> tuple[Floats, NDArray[np.int64]]:
    """Every inter-token latency of the run: rising values (seconds), and how often each."""
    times = StepTimes(recorder.log)
    pauses = [
        (before[1], after[0])
        for stretches in recorder.stretches
        for before, after in pairwise(stretches)
    ]
    steps = np.array(pauses, dtype=np.int64).reshape(-1, 2)
    waited = times.ends_at(steps[:, 1]) - times.ends_at(steps[:, 0])
    pieces = [_counted(waited, np.ones(len(waited), dtype=np.int64))]
    pieces += [_counted(values, counts) for values, counts in times.gaps()]
    values, counts = (np.concatenate(column) for column in zip(*pieces, strict=True))
    return _counted(values, counts)


def _counted(values: Floats, counts: NDArray[np.int64]) -> tuple[Floats, NDArray[np.int64]]:
    """Each value once, rising, and how often it is there."""
    values, places = np.unique(values, return_inverse=True)
    return values, np.bincount(places, weights=counts, minlength=len(values)).astype(np.int64)


def spread_of(values: Floats) -> Spread:
    """Mean and percentiles of latencies; None for each where there are none."""
    values = values[~np.isnan(values)]
    if not len(values):
        return dict.fromkeys(("mean", *QUANTILES))
    quantiles = np.quantile(values, list(QUANTILES.values())).tolist()
    return {"mean": float(values.mean()), **dict(zip(QUANTILES, quantiles, strict=True))}


def _weighted_spread(values: Floats, counts: NDArray[np.int64]) -> Spread:
    if not len(values):
        return dict.fromkeys(("mean", *QUANTILES))
    reached = np.cumsum(counts)
    total = int(reached[-1])
    ranks = np.searchsorted(reached, [np.ceil(q * total) for q in QUANTILES.values()])
    mean = float(values @ counts) / total
    return {"mean": mean, **dict(zip(QUANTILES, values[ranks].tolist(), strict=True))}


def _cdf(values: Floats, counts: NDArray[np.int64]) -> list[list[float]]:
    """Up to `CDF_POINTS` points (seconds, share of all tokens) of a cumulative distribution."""
    if not len(values):
        return []
    reached = np.cumsum(counts)
    shares = np.linspace(1 / CDF_POINTS, 1, CDF_POINTS)
    at = np.searchsorted(reached, np.ceil(shares * reached[-1]))
    return [[float(values[i]), float(reached[i] / reached[-1])] for i in np.unique(at)]


def summary_of(
    recorder: Recorder, columns: dict[str, Any], objectives: dict[str, Objectives]
) -> dict[str, Any]:
    """The metrics of a run by name; ``columns`` are those of `request_columns`.

    ``objectives`` by service class; a class without its own takes those of ``default``.
    """
    done = np.array([status == "finished" for status in columns["status"]], dtype=bool)
    failed = np.unique(columns["request"][~done])
    requests = np.unique(columns["request"][done])
    makespan = float(np.nanmax(columns["finish_s"], initial=0.0))
    values, counts = inter_token_latencies(recorder)
    totals = recorder.counts
    seconds = max(makespan, 1 / TICKS_PER_SECOND)
    good = _good(columns, done, objectives)
    return {
        "requests_completed": len(requests),
        "requests_failed": len(failed),
        "makespan_s": makespan,
        "output_tokens_per_s": totals["output_tokens"] / seconds,
        "total_tokens_per_s": (totals["output_tokens"] + _prompts(columns, done)) / seconds,
        "goodput_rps": good / seconds,
        "slo_share": good / max(len(np.unique(columns["request"])), 1),
        "running_mean": recorder.running_ticks / TICKS_PER_SECOND / seconds,
        **{name: spread_of(columns[name]) for name in ("queue_s", "ttft_s", "tpot_s", "e2e_s")},
        "itl_s": _weighted_spread(values, counts),
        "itl_cdf": _cdf(values, counts),
        **_memory(recorder, makespan),
        **_reads(recorder),
        **_hits(columns, done),
        "evictions": recorder.evictions(),
        "fairness": _fairness(columns, done),
        **{name: totals[name] for name in totals if name not in ("prompt_tokens",)},
    }


def _prompts(columns: dict[str, Any], done: NDArray[np.bool_]) -> int:
    """Prompt tokens of finished requests, however they were come by."""
    return int(columns["prompt"][done & (columns["sample"] == 0)].sum())


def _good(
    columns: dict[str, Any], done: NDArray[np.bool_], objectives: dict[str, Objectives]
) -> int:
    """Finished requests all of whose sequences met the objectives of their class."""
    classes = np.array(columns["slo_class"], dtype=object)
    bad = ~done
    for name in set(columns["slo_class"]):
        wanted = objectives.get(name, objectives["default"])
        late = (columns["ttft_s"] > wanted.ttft_s) | (columns["tpot_s"] > wanted.tpot_s)
        bad |= (classes == name) & late
    return len(np.setdiff1d(columns["request"][~bad], columns["request"][bad]))


def _fairness(columns: dict[str, Any], done: NDArray[np.bool_]) -> float:
    """Jain's index (Jain, Chiu and Hawe, 1984) of output tokens a second of waiting and serving.

    1 where all sequences were served at the same pace, 1 / n where one of n got everything; those
    that failed got nothing.
    """
    pace = np.zeros(len(done))
    np.divide(columns["output"], columns["e2e_s"], out=pace, where=done)
    squares = float(len(pace) * (pace @ pace))
    return float(pace.sum()) ** 2 / squares if squares else 0.0


def _memory(recorder: Recorder, makespan: float) -> dict[str, Any]:
    """Time-weighted shares of all bytes, and the peak share that was live."""
    usage, occupancy = recorder.usage(), recorder.occupancy
    capacity = sum(part.capacity * part.cell_bytes for part in usage)

    def share(name: str) -> float:
        used = sum(
            total[name] * part.cell_bytes for total, part in zip(occupancy, usage, strict=False)
        )
        return used / (capacity * makespan * TICKS_PER_SECOND) if capacity and makespan else 0.0

    return {
        "kv_utilization_mean": share("live"),
        "kv_utilization_peak": recorder.peak_live / capacity if capacity else 0.0,
        "internal_fragmentation_mean": share("internal"),
        "external_fragmentation_mean": share("external"),
        "reserved_mean": share("reserved"),
        "shared_mean": share("shared"),
        "kv_bytes": capacity,
    }


def _reads(recorder: Recorder) -> dict[str, float]:
    """Share of what attention loaded that nobody needed; nothing where there is no attention."""
    share = recorder.scanned.excess_share()
    return {} if share is None else {"excess_read_share": share}


def _hits(columns: dict[str, Any], done: NDArray[np.bool_]) -> dict[str, Any]:
    """Prefix hits; the rate by tokens, and as the mean over requests of each one's share."""
    hits, prompts = columns["prefix_hit_tokens"][done], columns["prompt"][done]
    return {
        "prefix_hit_tokens": int(hits.sum()),
        "prefix_hit_rate": float(hits.sum() / prompts.sum()) if len(hits) else 0.0,
        "prefix_hit_rate_request_mean": float((hits / prompts).mean()) if len(hits) else 0.0,
    }


def timeline_columns(recorder: Recorder) -> dict[str, list[Any]]:
    """One list a column, one entry a sample."""
    rows = recorder.samples.rows
    return {name: [row[name] for row in rows] for name in (rows[0] if rows else ())}
