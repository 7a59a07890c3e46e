"""Replaying llama.cpp recordings: every answer, cell, head, split and event must be ours too.

Compared after every operation, as far as recorded: the return value; the events (splits into
ubatches; cells, heads and bounds of every stream before each search for cells; purges; K-shifts;
stream copies) in their order; positions and state sizes of every sequence; all cells with all their
owners; the map and head of every cache; the cells in a saved blob. Of a header: context sizes,
caches, ``can_shift``. Of the engine's log lines only the reason why a decode was refused is
compared; the other warnings say in words what the values above say, and buffer size lines are
rounded forms of what ``memsize`` records hold.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from backends.conformance.difference import describe
from backends.conformance.llamacpp_models import geometry_of
from backends.conformance.llamacpp_sizes import replay_sizes
from backends.conformance.llamacpp_trace import Difference, Trace
from backends.conformance.recording import Record, find_recordings, first_record, read_records
from backends.conformance.report import Report
from workloads.errors import InputError


def recognises(first: Record) -> bool:
    """Whether a recording that begins like this is one of llama.cpp."""
    if first.get("type") == "header":
        return "llama" in str(first.get("lib")) and "caches" in first
    return first.get("type") == "abort" or {"config", "caches", "n_ctx_seq"} <= first.keys()


def check(path: Path) -> Report:
    """Replay the llama.cpp recording ``path``, or all of them below a folder.

    Raises `InputError` for a damaged recording, or a file that is none of llama.cpp's.
    """
    report = Report()
    for recording in find_recordings(path):
        if recognises(first_record(recording)):
            report.add(replay(recording))
        elif recording == path:
            raise InputError(f"{path}: not a recording of llama.cpp")
    return report


def replay(path: Path) -> Report:
    """Replay one recording."""
    first = first_record(path)
    if first.get("type") == "abort":
        why = "the engine ended before a header was written, so nothing says what was asked"
        return Report(skipped=[f"{path}: {why}"])
    if first.get("type") != "header":
        return replay_sizes(path)
    report = Report(traces=1)
    line = 0
    try:
        for line, operation, difference in _steps(path):
            report.operations += operation is not None
            if difference is not None:
                report.mismatches = 1
                asked = "the context" if operation is None else _asked(operation)
                report.first = describe(f"{path}:{line}", asked, *difference)
                break
    except (KeyError, TypeError, ValueError, IndexError) as error:
        if isinstance(error, InputError):
            raise
        what = f"{type(error).__name__}: {error}"
        raise InputError(
            f"{path}:{line + 1}: not a record of a llama.cpp trace ({what})"
        ) from error
    return report


def _steps(path: Path) -> Iterator[tuple[int, Record | None, Difference | None]]:
    """(line, the operation if it is one, the first difference if there is one) of every record."""
    records = read_records(path)
    line, header = next(records)
    trace = Trace(header, geometry_of(header))
    yield line, None, trace.check_header()
    ended = False
    for line, record in records:
        kind = record["type"]
        if kind == "init":
            yield line, None, trace.check_observation(record["obs"])
        elif kind == "op":
            yield line, record, trace.run(record)
        elif kind == "abort":
            ended = True
            pending = record["pending"]
            yield line, pending, None if pending is None else trace.run_fatal(pending, record)
        elif kind == "end":
            ended = True
            yield line, None, None
        else:
            raise InputError(f"{path}:{line}: unknown record type {kind!r}")
    if not ended:
        raise InputError(f"{path}:{line}: the recording breaks off (no 'end' or 'abort' record)")


def _asked(operation: Record) -> str:
    given = {k: v for k, v in operation.items() if k not in _ANSWERS}
    arguments = ", ".join(f"{key}={_short(value)}" for key, value in given.items())
    return f"operation {operation.get('i')}: {operation.get('op')}({arguments})"


_ANSWERS = {"type", "i", "op", "ret", "ev", "obs", "blob"}


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 200 else text[:197] + "..."
