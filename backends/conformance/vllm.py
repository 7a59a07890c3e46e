"""Replaying recordings of vLLM's scheduler and KV-cache manager: every step must be ours too.

The recorded arrivals and aborts are given to our scheduler and our `paged` policy, and everything
that was recorded of a step is compared: who is scheduled, admitted, refused and preempted, what
the prefix cache answers and loses, block tables, the free queue, counts and statistics.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from backends.conformance.difference import describe
from backends.conformance.recording import Record, find_recordings, first_record, read_records
from backends.conformance.report import Report
from backends.conformance.vllm_in_flight import InFlight
from backends.conformance.vllm_trace import Difference, Trace
from workloads.errors import InputError


def recognises(first: Record) -> bool:
    """Whether a recording that begins like this is one of vLLM."""
    return first.get("type") == "trace" and "vllm" in first


def check(path: Path) -> Report:
    """Replay the vLLM recording ``path``, or all of them below a folder.

    Raises `InputError` for a damaged recording, or a file that is none of vLLM's.
    """
    report = Report()
    for recording in find_recordings(path):
        if recognises(first_record(recording)):
            report.add(replay(recording))
        elif recording == path:
            raise InputError(f"{path}: not a recording of vLLM")
    return report


def replay(path: Path) -> Report:
    """Replay one recording, up to the first difference."""
    report = Report(traces=1)
    line = 0
    try:
        for line, record, difference in _steps(path):
            report.operations += record["type"] == "step"
            if difference is not None:
                report.mismatches = 1
                report.first = describe(f"{path}:{line}", _asked(record), *difference)
                break
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        what = f"{type(error).__name__}: {error}"
        raise InputError(f"{path}:{line + 1}: not a record of a vLLM trace ({what})") from error
    return report


def _steps(path: Path) -> Iterator[tuple[int, Record, Difference | None]]:
    """(line, record, the first difference if there is one) of every step, and of the end."""
    header: Record = {}
    requests: list[Record] = []
    trace: Trace | InFlight | None = None
    line, kind = 0, ""
    for line, record in read_records(path):
        kind = record["type"]
        if kind == "trace":
            header = record
        elif kind == "req":
            requests.append(record)
        elif kind == "step":
            trace = trace or _counterpart(header, requests)
            yield line, record, trace.run(record)
        elif kind == "end":
            trace = trace or _counterpart(header, requests)
            yield line, record, trace.check_end(record)
        else:
            raise InputError(f"{path}:{line}: unknown record type {kind!r}")
    if kind != "end":
        raise InputError(f"{path}:{line}: the recording breaks off (no 'end' record)")


def _counterpart(header: Record, requests: list[Record]) -> Trace | InFlight:
    return (InFlight if "in_flight" in header["config"] else Trace)(header, requests)


def _asked(record: Record) -> str:
    if record["type"] == "end":
        return "the totals"
    if "add" not in record:
        return f"step {record['step']}"
    return f"step {record['step']}: add {record['add']}, abort {record['abort']}"
