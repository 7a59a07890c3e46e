"""A stored sweep: what was asked, and every finished point, in one directory.

``sweep.json`` says what was asked: title, axes, seeds, metrics, plots, and the points with their
labels, seed and id. ``points/ID/`` is the run directory of a point that finished (see
`reports.results`), ``failed/ID.json`` says why another could not be run, ``searches/ID.json`` is a
search for the highest rate, ``experiments/ID.json`` what an experiment found. Everything appears
under its name when it is whole, so what is there can be trusted whenever the sweep ended. Equal
studies give equal bytes.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reports.directory import ensure_replaceable
from reports.results import RunResult, json_text
from workloads.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

FORMAT = 2
INDEX = "sweep.json"
POINTS, FAILED, SEARCHES, EXPERIMENTS = "points", "failed", "searches", "experiments"
SCRATCH = ".kvlab-"
"""How names of unfinished things begin; whoever was killed leaves them."""

Index = dict[str, Any]


@dataclass(frozen=True)
class Sweep:
    """A sweep's directory and its index.

    index: ``format``, ``kvlab`` (version), ``title``, ``question``, ``answer``, ``notes``,
    ``setting`` (fields that all points share, where they are stated or always matter), ``axes``
    (list of {name, labels, numbers}; ``numbers`` is None unless every label is one), ``compared``
    (an axis), ``seeds``, ``metrics``, ``judged`` (metrics that sentences are about), ``plots`` (as
    in the study file), ``points`` (list of {id, labels, seed}), ``capacity`` (None or its fields),
    ``searches`` (list of {id, labels, seed}), ``experiments`` (list of {id, labels}; the label is
    the name).
    """

    root: Path
    index: Index

    @classmethod
    def load(cls, directory: str | Path) -> Sweep:
        """Open a sweep; raises `InputError` where there is none or of another format."""
        root = Path(directory)
        index = read_json(root / INDEX)
        if not isinstance(index, dict) or index.get("format") != FORMAT:
            raise InputError(f"{root / INDEX}: expected a sweep of format {FORMAT}")
        return cls(root, index)

    @property
    def axes(self) -> list[str]:
        """Names of the axes, the slowest first."""
        return [axis["name"] for axis in self.index["axes"]]

    def labels(self, axis: str) -> list[str]:
        """The labels of an axis, in the order of the study."""
        return next(each["labels"] for each in self.index["axes"] if each["name"] == axis)

    def numbers(self, axis: str) -> list[float] | None:
        """The labels of an axis as numbers, or None where they are none."""
        return next(each["numbers"] for each in self.index["axes"] if each["name"] == axis)

    def run_of(self, point: Mapping[str, Any]) -> RunResult | None:
        """The result of an entry of ``points``, or None where it failed or is still to come."""
        where = self.root / POINTS / point["id"]
        return RunResult.load(where) if where.is_dir() else None

    def failure_of(self, entry: Mapping[str, Any]) -> str | None:
        """Why a point or a search could not be run, or None."""
        where = self.root / FAILED / f"{entry['id']}.json"
        return str(read_json(where)["reason"]) if where.exists() else None

    def search_of(self, search: Mapping[str, Any]) -> dict[str, Any] | None:
        """The result of an entry of ``searches``, or None where it failed or is to come."""
        where = self.root / SEARCHES / f"{search['id']}.json"
        return dict(read_json(where)) if where.exists() else None

    def experiment_of(self, entry: Mapping[str, Any]) -> dict[str, Any] | None:
        """What an entry of ``experiments`` found, or None where it failed or is to come."""
        where = self.root / EXPERIMENTS / f"{entry['id']}.json"
        return dict(read_json(where)) if where.exists() else None

    def entries(self) -> list[dict[str, Any]]:
        """All points, searches and experiments."""
        return [*self.index["points"], *self.index["searches"], *self.index["experiments"]]

    def missing(self) -> int:
        """Points, searches and experiments that are still to come."""
        entries = self.entries()
        return len({entry["id"] for entry in entries if not self.has(entry["id"])})

    def has(self, name: str) -> bool:
        """Whether a point, a search or an experiment of that id is done, well or badly."""
        return (self.root / POINTS / name).is_dir() or any(
            (self.root / folder / f"{name}.json").exists()
            for folder in (SEARCHES, EXPERIMENTS, FAILED)
        )

    def frame(self) -> pd.DataFrame:
        """One row a finished point: a column of labels for each axis, ``seed``, ``id``, metrics.

        Metrics are all of `reports.metrics.metric_names`, NaN where there is none. ``lossy`` says
        what a policy loses, and is empty where it is exact.
        """
        import pandas as pd

        from reports.metrics import metric, metric_names

        rows = []
        for point in self.index["points"]:
            path = self.root / POINTS / point["id"] / "summary.json"
            if path.parent.is_dir():
                summary = read_json(path)
                values = {name: metric(name).value_of(summary) for name in metric_names()}
                at = dict(zip(self.axes, point["labels"], strict=True))
                where = {"seed": point["seed"], "id": point["id"]}
                rows.append({**at, **where, "lossy": summary.get("lossy", ""), **values})
        columns = [*self.axes, "seed", "id", "lossy", *metric_names()]
        frame = pd.DataFrame(rows, columns=columns)
        return frame.astype(dict.fromkeys(metric_names(), "float64"))

    # Writing.

    def store_run(self, name: str, run: RunResult) -> None:
        """Keep the result of a point."""
        run.save(self.root / POINTS / name)

    def store_failure(self, name: str, config: Mapping[str, Any], reason: str) -> None:
        """Keep why a point, a search or an experiment could not be run."""
        text = json_text({"config": config, "reason": reason})
        write_whole(self.root / FAILED / f"{name}.json", text)

    def store_search(self, name: str, found: Mapping[str, Any]) -> None:
        """Keep the result of a search."""
        write_whole(self.root / SEARCHES / f"{name}.json", json_text(found))

    def store_experiment(self, name: str, found: Mapping[str, Any]) -> None:
        """Keep what an experiment found."""
        write_whole(self.root / EXPERIMENTS / f"{name}.json", json_text(found))

    def forget_failures(self) -> None:
        """Let everything that failed be tried once more."""
        shutil.rmtree(self.root / FAILED, ignore_errors=True)


@contextmanager
def sweep_at(directory: str | Path, index: Index) -> Iterator[Sweep]:
    """A directory to store points of ``index`` in; others have to wait until the block ends.

    Points that are there already stay, what a killed sweep left unfinished goes. Raises
    `InputError` where the directory holds anything else, cannot be written or is in use.
    """
    import fcntl

    ensure_replaceable(directory, lambda root: (root / INDEX).is_file())
    root = Path(directory)
    try:
        root.mkdir(parents=True, exist_ok=True)
        handle = os.open(root, os.O_RDONLY)
    except OSError as error:
        raise InputError(f"{directory}: cannot be written: {error.strerror or error}") from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(f"{directory}: another sweep is running there") from None
        for folder in (root, *(root / name for name in (POINTS, FAILED, SEARCHES, EXPERIMENTS))):
            for path in folder.glob(f"{SCRATCH}*"):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        write_whole(root / INDEX, json_text(index))
        yield Sweep(root, index)
    finally:
        os.close(handle)


def read_json(path: Path) -> Any:
    """A JSON file; raises `InputError` where it is missing or damaged."""
    try:
        return json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise InputError(f"{path}: truncated or damaged: {error}") from error


def write_whole(path: Path, text: str) -> None:
    """Write a file under another name and rename it; raises `InputError`."""
    scratch = path.with_name(f"{SCRATCH}{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch.write_text(text, "utf-8")
        scratch.replace(path)
    except OSError as error:
        scratch.unlink(missing_ok=True)
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from error
