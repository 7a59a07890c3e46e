"""A run under vLLM's own metric names, as a scraper would have seen it over time.

The text is OpenMetrics with timestamps, so that a whole run can be loaded at once
(``promtool tsdb create-blocks-from openmetrics FILE``) and dashboards made for vLLM show it.
Names, kinds and buckets are those of vLLM 0.19 (``vllm/v1/metrics/loggers.py``). Seconds count
from ``epoch``. What a run does not keep over time (ITL, tokens of a step) is left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from reports.directory import whole_file
from reports.results import RunResult

Floats = NDArray[np.float64]

_TTFT = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5),
    *(10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
_TPOT = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5),
    *(10.0, 20.0, 40.0, 80.0),
)
_LATENCY = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0),
    *(120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0),
)


@dataclass(frozen=True)
class Family:
    """One metric over time. values: a number at each moment, or with ``bounds`` a row of them.

    A histogram's rows are cumulative counts at its bounds, the last of which is infinite; sums:
    its sums.
    """

    name: str
    kind: str
    text: str
    values: Floats
    bounds: tuple[float, ...] = ()
    sums: Floats | None = None
    labels: str = ""


def families_of(run: RunResult) -> Iterator[Family]:
    """All metrics at the moments of the run's timeline."""
    line = run.timeline
    times = line["time_s"].to_numpy(float)

    def column(name: str) -> Floats:
        return line[name].to_numpy(float)

    capacity = np.maximum(column("capacity_bytes"), 1)
    used = 1 - column("free_bytes") / capacity if column("capacity_bytes").any() else 0 * capacity
    yield Family("num_requests_running", "gauge", "Sequences in a batch.", column("running"))
    yield Family("num_requests_waiting", "gauge", "Sequences that wait.", column("waiting"))
    yield Family("kv_cache_usage_perc", "gauge", "KV cache in use; 1 is all of it.", used)
    yield Family("generation_tokens", "counter", "Output tokens.", column("output_tokens"))
    yield Family("num_preemptions", "counter", "Preemptions.", column("preemptions"))
    yield from _of_requests(run, times)


def _of_requests(run: RunResult, times: Floats) -> Iterator[Family]:
    done = run.finished
    finish = done["finish_s"].to_numpy(float)
    scheduled = (done["arrival_s"] + done["queue_s"]).to_numpy(float)
    first = (done["arrival_s"] + done["ttft_s"]).to_numpy(float)
    prompt, hit = done["prompt"].to_numpy(float), done["prefix_hit_tokens"].to_numpy(float)
    yield _sum("prefix_cache_queries", "Prompt tokens looked up.", scheduled, prompt, times)
    yield _sum("prefix_cache_hits", "Prompt tokens found.", scheduled, hit, times)
    # vLLM counts a prompt when its first token is out, with what the cache had of it.
    yield _sum("prompt_tokens", "Prompt tokens.", first, prompt, times)
    yield _sum("prompt_tokens_cached", "Prompt tokens that were cached.", first, hit, times)
    ended = _sum("request_success", "Finished requests.", finish, np.ones(len(done)), times)
    yield Family(
        ended.name, ended.kind, ended.text, ended.values, labels=',finished_reason="length"'
    )
    longest = int((done["prompt"] + done["output"]).max()) if len(done) else 1
    longest = int(run.config.get("max_model_len", longest))
    for name, text, values, at, bounds in (
        ("time_to_first_token_seconds", "TTFT.", first - done["arrival_s"], first, _TTFT),
        ("request_time_per_output_token_seconds", "TPOT.", done["tpot_s"], finish, _TPOT),
        ("e2e_request_latency_seconds", "E2E latency.", done["e2e_s"], finish, _LATENCY),
        ("request_queue_time_seconds", "Time in the queue.", done["queue_s"], finish, _LATENCY),
        ("request_inference_time_seconds", "Running.", finish - scheduled, finish, _LATENCY),
        ("request_prefill_time_seconds", "Prefill.", first - scheduled, finish, _LATENCY),
        ("request_decode_time_seconds", "Decode.", finish - first, finish, _LATENCY),
        ("request_prompt_tokens", "Prompt tokens.", prompt, finish, _one_two_five(longest)),
        ("request_generation_tokens", "Output.", done["output"], finish, _one_two_five(longest)),
    ):
        yield _histogram(name, text, np.asarray(values, float), at, times, bounds)


def _one_two_five(most: int) -> tuple[float, ...]:
    """1, 2, 5, 10, 20, ... up to ``most``."""
    steps = (float(m * 10**e) for e in range(len(str(most))) for m in (1, 2, 5))
    return tuple(step for step in steps if step <= most)


def _sum(name: str, text: str, at: Floats, values: Floats, times: Floats) -> Family:
    """The sum of ``values`` that had come ``at`` each of the times or before."""
    order = np.argsort(at, kind="stable")
    running = np.append(0.0, np.cumsum(values[order]))
    return Family(name, "counter", text, running[np.searchsorted(at[order], times, side="right")])


def _histogram(
    name: str, text: str, values: Floats, at: Floats, times: Floats, bounds: tuple[float, ...]
) -> Family:
    known = ~np.isnan(values)
    values, at = values[known], at[known]
    limits = (*bounds, np.inf)
    rows = [_sum(name, text, at, (values <= limit).astype(float), times).values for limit in limits]
    sums = _sum(name, text, at, values, times).values
    return Family(name, "histogram", text, np.array(rows).T, limits, sums)


def lines_of(run: RunResult, epoch: float) -> Iterator[str]:
    """The text line by line, without line ends; ``epoch``: when the run started, since 1970."""
    times = epoch + run.timeline["time_s"].to_numpy(float)
    model = str(run.config.get("model", "")).replace("\\", "\\\\").replace('"', '\\"')
    labels = f'model_name="{model}",engine="0"'
    for family in families_of(run):
        name = f"vllm:{family.name}"
        yield f"# TYPE {name} {family.kind}"
        yield f"# HELP {name} {family.text}"
        for row, time in enumerate(times.tolist()):
            if family.kind == "histogram":
                yield from _buckets(name, labels, family, row, time)
            else:
                suffix = "_total" if family.kind == "counter" else ""
                value = family.values[row]
                yield f"{name}{suffix}{{{labels}{family.labels}}} {value:.17g} {time:.9f}"
    yield "# EOF"


def _buckets(name: str, labels: str, family: Family, row: int, time: float) -> Iterator[str]:
    assert family.sums is not None
    for bound, count in zip(family.bounds, family.values[row].tolist(), strict=True):
        limit = "+Inf" if bound == np.inf else f"{bound!r}"
        yield f'{name}_bucket{{{labels},le="{limit}"}} {count:.0f} {time:.9f}'
    yield f"{name}_count{{{labels}}} {family.values[row][-1]:.0f} {time:.9f}"
    yield f"{name}_sum{{{labels}}} {family.sums[row]:.17g} {time:.9f}"


def write_metrics(run: RunResult, path: Path, epoch: float = 0.0) -> None:
    """Write the text; raises `InputError` where it cannot be written."""
    with whole_file(path) as file:
        for line in lines_of(run, epoch):
            file.write(f"{line}\n")
