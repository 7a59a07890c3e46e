"""A run as a trace that Perfetto and chrome://tracing open: a track a sequence, and counters.

The format is Chrome's JSON trace event format: complete events (``X``) for phases, counters
(``C``) for the memory and the queue, metadata (``M``) for names. Times are microseconds.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from reports.directory import whole_file
from reports.phases import check_phases, phases_of, rows_of
from reports.results import RunResult

SEQUENCES, MEMORY = 1, 2
"""Process ids: one for all tracks, one for the counters."""
MICROSECONDS = 1e6
_MEMORY = ("live", "reserved", "internal", "free")
Event = dict[str, Any]


def events_of(run: RunResult) -> Iterator[Event]:
    """All events of a run, sequences in order of arrival."""
    check_phases(run.requests)
    policy = str(run.summary["policy"])
    yield _named("process_name", SEQUENCES, 0, f"{policy}: sequences")
    yield _named("process_name", MEMORY, 0, f"{policy}: memory and queue")
    ordered = run.requests.sort_values(["arrival_s", "request", "sample"], kind="stable")
    for track, row in enumerate(rows_of(ordered), 1):
        yield _named("thread_name", SEQUENCES, track, _name(row))
        yield {
            "ph": "M",
            "name": "thread_sort_index",
            "pid": SEQUENCES,
            "tid": track,
            "args": {"sort_index": track},
        }
        yield from _life(row, track)
    yield from _counters(run)


def _name(row: Any) -> str:
    return f"request {row.request}" + (f", sample {row.sample}" if row.sample else "")


def _named(kind: str, process: int, track: int, name: str) -> Event:
    return {"ph": "M", "name": kind, "pid": process, "tid": track, "args": {"name": name}}


def _life(row: Any, track: int) -> Iterator[Event]:
    at = {"pid": SEQUENCES, "tid": track}
    arrival = row.arrival_s * MICROSECONDS
    if row.status == "failed":
        failed = {"ph": "i", "name": "failed", "ts": arrival, "s": "t"}
        yield failed | at | {"args": {"reason": row.reason}}
        return
    about = {
        "prompt tokens": row.prompt,
        "output tokens": row.output,
        "prefix hit tokens": row.prefix_hit_tokens,
        "recomputed tokens": row.recomputed_tokens,
        "preemptions": row.preemptions,
    }
    for phase in phases_of(row):
        start, end = phase.start * MICROSECONDS, phase.end * MICROSECONDS
        yield {
            "ph": "X",
            "name": phase.kind,
            "cat": "sequence",
            "ts": start,
            "dur": end - start,
            "args": about,
        } | at


def _counters(run: RunResult) -> Iterator[Event]:
    for row in run.timeline.to_dict("records"):
        at = {"ph": "C", "pid": MEMORY, "tid": 0, "ts": row["time_s"] * MICROSECONDS}
        yield at | {
            "name": "KV memory (bytes)",
            "args": {part: row[f"{part}_bytes"] for part in _MEMORY},
        }
        yield at | {
            "name": "sequences",
            "args": {"running": row["running"], "waiting": row["waiting"]},
        }
        yield at | {"name": "preemptions so far", "args": {"preemptions": row["preemptions"]}}


def write_trace(run: RunResult, path: Path) -> None:
    """Write the trace, event by event; raises `InputError` where it cannot be written."""
    with whole_file(path) as file:
        file.write('{"displayTimeUnit":"ms","traceEvents":[\n')
        for number, event in enumerate(events_of(run)):
            file.write(",\n" if number else "")
            file.write(json.dumps(event, separators=(",", ":"), allow_nan=False, default=int))
        file.write("\n]}\n")
