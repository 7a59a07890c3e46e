"""One run's results as plain data, and the directory that holds them.

A run directory has four files: ``config.toml`` (everything needed to repeat the run),
``requests.parquet`` (one row a request), ``timeline.parquet`` (one row a metric sample) and
``summary.json``. Equal data gives equal bytes.
"""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import tomli_w
from numpy.typing import NDArray

from reports.directory import replacing
from reports.frames import (
    REQUEST_COLUMNS,
    TIMELINE_COLUMNS,
    frame_of,
    table_of,
    table_reader,
    write_table,
)
from reports.metrics import DISTRIBUTIONS, REQUIRED, STATISTICS, VOLATILE
from workloads.errors import InputError

FILES = ("config.toml", "requests.parquet", "summary.json", "timeline.parquet")


def _is_run(directory: Path) -> bool:
    return all(path.name in FILES for path in directory.iterdir())


@dataclass(frozen=True, eq=False)
class RunResult:
    """What one policy did with one workload.

    config: nested, as in ``config.toml``. requests, timeline: the columns of
    `reports.frames`.
    summary: every metric of `reports.metrics` by name, distributions as objects of statistics;
    None where there is no value; besides ``policy``, ``itl_cdf`` (a list of [seconds, cumulative
    share]) and ``caches`` (a list of {name, cells, cell_bytes}).
    """

    config: dict[str, Any]
    requests: pd.DataFrame
    timeline: pd.DataFrame
    summary: dict[str, Any]

    @classmethod
    def of(
        cls,
        config: Mapping[str, Any],
        request_columns: Mapping[str, Sequence[Any] | NDArray[Any]],
        timeline_columns: Mapping[str, Sequence[Any] | NDArray[Any]],
        summary: Mapping[str, Any],
    ) -> RunResult:
        """Results from the plain columns of a simulation.

        Options that are None are left out of the config (TOML has no word for it), NaN becomes
        None in the summary. A run in which nothing could be served has no samples, and no columns
        of them. Raises `InputError` for a missing column or metric.
        """
        timeline = timeline_columns or dict.fromkeys(TIMELINE_COLUMNS, ())
        return cls(
            _plain(config),
            frame_of(table_of(request_columns, REQUEST_COLUMNS, "requests")),
            frame_of(table_of(timeline, TIMELINE_COLUMNS, "timeline")),
            _checked_summary(_without_nan(_plain(summary, keep_none=True)), "summary"),
        )

    @classmethod
    def load(cls, directory: str | Path) -> RunResult:
        """Read a run directory; raises `InputError` where a file is missing or damaged."""
        root = Path(directory)
        if not root.is_dir():
            raise InputError(f"{directory}: no such directory of results")
        return cls(
            _read(root / "config.toml", lambda path: tomllib.loads(path.read_text("utf-8"))),
            frame_of(_read(root / "requests.parquet", table_reader(REQUEST_COLUMNS))),
            frame_of(_read(root / "timeline.parquet", table_reader(TIMELINE_COLUMNS))),
            _read(root / "summary.json", _read_summary),
        )

    def save(self, directory: str | Path) -> None:
        """Write a run directory in one go, over an earlier one if there is one.

        Metrics that differ between equal runs (`VOLATILE`) are left out. Raises `InputError`
        where nothing can be written or the directory holds something else.
        """
        with replacing(directory, _is_run) as root:
            self.write_files(root)

    def write_files(self, root: Path) -> None:
        """Write the four files into an existing directory."""
        stored = {name: value for name, value in self.summary.items() if name not in VOLATILE}
        (root / "config.toml").write_text(tomli_w.dumps(self.config), "utf-8")
        (root / "summary.json").write_text(json_text(stored), "utf-8")
        write_table(root / "requests.parquet", self.requests, REQUEST_COLUMNS)
        write_table(root / "timeline.parquet", self.timeline, TIMELINE_COLUMNS)

    @property
    def finished(self) -> pd.DataFrame:
        """The rows of the requests that finished."""
        return self.requests[self.requests["status"] == "finished"]

    def failures(self) -> dict[str, int]:
        """Failed requests by reason, most frequent first."""
        failed = self.requests[self.requests["status"] == "failed"]
        counts = [(str(reason), int(n)) for reason, n in failed["reason"].value_counts().items()]
        return dict(sorted(counts, key=lambda item: (-item[1], item[0])))

    def owners(self, cache: int) -> NDArray[np.int64] | None:
        """Owner by (sample, address) of a cache, or None where the policy has nothing to draw."""
        name = f"owners_{cache}"
        if name not in self.timeline or self.timeline.empty:
            return None
        return np.stack(self.timeline[name].to_list())


def json_text(value: Any) -> str:
    """JSON with sorted keys, so that equal data is equal text."""
    return json.dumps(value, sort_keys=True, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def _plain(value: Any, keep_none: bool = False) -> Any:
    if isinstance(value, Mapping):
        return {
            str(key): _plain(item, keep_none)
            for key, item in value.items()
            if keep_none or item is not None
        }
    if isinstance(value, list | tuple):
        return [_plain(item, keep_none) for item in value]
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return value


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _checked_summary(summary: Any, where: str) -> dict[str, Any]:
    if not isinstance(summary, dict):
        raise InputError(f"{where}: expected an object of metrics")
    for name in (*REQUIRED, "policy", "caches", "itl_cdf"):
        if name not in summary:
            raise InputError(f"{where}: lacks {name!r}")
    for name in DISTRIBUTIONS:
        if not isinstance(summary[name], dict) or not set(STATISTICS) <= set(summary[name]):
            raise InputError(f"{where}: {name} is not an object with {', '.join(STATISTICS)}")
    return summary


def _read_summary(path: Path) -> dict[str, Any]:
    return _checked_summary(json.loads(path.read_text("utf-8")), str(path))


def _read(path: Path, read: Callable[[Path], Any]) -> Any:
    try:
        return read(path)
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"{path}: missing; expected {', '.join(FILES)} beside it") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, pa.ArrowException) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"{path}: truncated or damaged: {reason}") from error
