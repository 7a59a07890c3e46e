"""The columns of requests and timelines, and their way between arrays, frames and files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from workloads.errors import InputError

_INT, _FLOAT, _TEXT = pa.int64(), pa.float64(), pa.string()

REQUEST_COLUMNS: dict[str, pa.DataType] = {
    "request": _INT,
    "sample": _INT,
    "conversation": _INT,
    "turn": _INT,
    "slo_class": _TEXT,
    "priority": _INT,
    "arrival_s": _FLOAT,
    "prompt": _INT,
    "output": _INT,
    "status": _TEXT,
    "reason": _TEXT,
    "queue_s": _FLOAT,
    "ttft_s": _FLOAT,
    "tpot_s": _FLOAT,
    "itl_p50_s": _FLOAT,
    "itl_p99_s": _FLOAT,
    "itl_max_s": _FLOAT,
    "e2e_s": _FLOAT,
    "finish_s": _FLOAT,
    "preemptions": _INT,
    "recomputed_tokens": _INT,
    "prefix_hit_tokens": _INT,
}
"""Seconds and tokens. ``status`` is finished or failed, ``reason`` says why it failed (else it is
empty); latencies are NaN where there is none. ``conversation`` may be missing."""

LIST_COLUMNS: dict[str, pa.DataType] = {
    "stretches_s": pa.list_(_FLOAT),
    "pauses_s": pa.list_(_FLOAT),
    "pause_kinds": pa.list_(_TEXT),
}
"""What requests may have besides: first and last token of every unbroken stretch of tokens; when
the sequence was preempted, came back, was preempted, ... (seconds); ``preempted`` or ``swapped``
for each of these pauses."""

TIMELINE_COLUMNS: dict[str, pa.DataType] = {
    "time_s": _FLOAT,
    "steps": _INT,
    "running": _INT,
    "waiting": _INT,
    "prompt_tokens": _INT,
    "output_tokens": _INT,
    "preemptions": _INT,
    "live_bytes": _INT,
    "reserved_bytes": _INT,
    "internal_bytes": _INT,
    "free_bytes": _INT,
    "external_bytes": _INT,
    "shared_bytes": _INT,
    "largest_free_run_bytes": _INT,
    "capacity_bytes": _INT,
}
"""Rows are in order of time. Steps, tokens and preemptions count from the start of the run; the
rest is of the moment. ``external`` is part of ``free``, ``shared`` of ``live``. Besides, a list
column ``owners_0``, ``owners_1``, ... for each cache that can be drawn: who owns each of up to 512
evenly spaced addresses (a sequence id, or FREE, SHARED, UNUSED of `sim.owners`)."""

_NULLABLE = ("conversation",)


def table_of(columns: Mapping[str, Any], schema: Mapping[str, pa.DataType], where: str) -> pa.Table:
    """Arrow columns of the schema's types, then the others as they come, in the order given.

    Raises `InputError` where ``where`` lacks a column of the schema.
    """
    for name in schema:
        if name not in columns:
            raise InputError(f"{where}: lacks column {name!r}")
    arrays = {
        name: pa.array(columns[name], kind, from_pandas=True) for name, kind in schema.items()
    }
    for name in columns:
        if name.startswith("owners_"):
            arrays[name] = pa.array(list(columns[name]), pa.list_(_INT))
        elif name in LIST_COLUMNS:
            arrays[name] = pa.array(list(columns[name]), LIST_COLUMNS[name])
        elif name not in schema:
            arrays[name] = pa.array(columns[name], from_pandas=True)
    return pa.table(arrays)


def frame_of(table: pa.Table) -> pd.DataFrame:
    """The table for pandas; whole numbers that may be missing stay whole."""
    frame: pd.DataFrame = table.to_pandas()
    for name in _NULLABLE:
        if name in frame:
            frame[name] = table[name].to_pandas(types_mapper=lambda _: pd.Int64Dtype())
    return frame


def write_table(path: Path, frame: pd.DataFrame, schema: Mapping[str, pa.DataType]) -> None:
    """Write a frame as Parquet without pandas' own metadata: equal frames, equal bytes."""
    table = table_of({str(name): frame[name] for name in frame}, schema, str(path))
    pq.write_table(table, path, compression="zstd", write_page_checksum=True)


def table_reader(schema: Mapping[str, pa.DataType]) -> Callable[[Path], pa.Table]:
    """A function that reads a Parquet file and raises `InputError` where it lacks a column."""

    def read(path: Path) -> pa.Table:
        table = pq.ParquetFile(path, page_checksum_verification=True).read()
        for name in schema:
            if name not in table.column_names:
                raise InputError(f"{path}: lacks column {name!r}")
        return table

    return read
