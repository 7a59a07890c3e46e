"""A baseline: the numbers of a study's points, kept in one file to be compared with later.

The file carries its format, kvlab's version and the whole configuration of every point, so that a
check runs exactly what was run then; whatever cannot be run that way any more is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from reports.metrics import DISTRIBUTIONS, STATISTICS, VOLATILE
from reports.results import json_text
from reports.sweep import read_json, write_whole
from workloads.errors import InputError

KIND, FORMAT = "kvlab baseline", 1
Metrics = dict[str, float | int | None]


@dataclass(frozen=True)
class BaselinePoint:
    """One point. labels: where it lies in its study. files: digests of the files it reads.

    metrics: every number of its summary by path, whole numbers as such; failure: why it could not
    be run, else None.
    """

    labels: tuple[str, ...]
    seed: int
    config: dict[str, Any]
    files: dict[str, str]
    metrics: Metrics
    failure: str | None = None

    @property
    def name(self) -> str:
        """What tables call the point, without its seed."""
        return ", ".join(self.labels) or str(self.config["policy"])


@dataclass(frozen=True)
class Baseline:
    """title: of the study. tolerances: relative, by metric. kvlab: the version that made it."""

    title: str
    kvlab: str
    axes: tuple[str, ...]
    tolerances: dict[str, float]
    points: tuple[BaselinePoint, ...]

    def save(self, path: Path) -> None:
        """Write the file in one go; raises `InputError`."""
        write_whole(path, json_text({"kind": KIND, "format": FORMAT, **asdict(self)}))

    @classmethod
    def load(cls, path: Path) -> Baseline:
        """Read a file; raises `InputError` where it is no baseline of this format."""
        found = read_json(path)
        if not isinstance(found, dict) or found.get("kind") != KIND:
            raise InputError(f"{path}: is no baseline; expected what kvlab baseline save writes")
        if found["format"] != FORMAT:
            raise InputError(
                f"{path}: has format {found['format']} (kvlab {found.get('kvlab', '?')}), expected"
                f" {FORMAT}; save it again"
            )
        try:
            points = [
                BaselinePoint(**{**point, "labels": tuple(point["labels"])})
                for point in found["points"]
            ]
            return cls(
                found["title"],
                found["kvlab"],
                tuple(found["axes"]),
                dict(found["tolerances"]),
                tuple(points),
            )
        except (KeyError, TypeError) as error:
            raise InputError(f"{path}: damaged baseline: {error}") from error


def metrics_of(summary: Mapping[str, Any]) -> Metrics:
    """Every number of a summary by its path, without those that differ between equal runs."""
    found: Metrics = {}
    for name, value in summary.items():
        if name in DISTRIBUTIONS or (isinstance(value, Mapping) and set(STATISTICS) <= set(value)):
            found |= {f"{name}.{statistic}": value[statistic] for statistic in STATISTICS}
        elif name not in VOLATILE:
            found |= _numbers_in(name, value)
    return found


def _numbers_in(path: str, value: Any) -> Metrics:
    """Numbers in nested objects (what a cluster and its tiers did), those of lists by ``name``."""
    if isinstance(value, int | float):
        return {path: value}
    parts: Mapping[str, Any] = value if isinstance(value, Mapping) else {}
    if isinstance(value, list) and all(isinstance(each, Mapping) for each in value):
        parts = {str(each.get("name", place)): each for place, each in enumerate(value)}
    found: Metrics = {}
    for key, part in parts.items():
        found |= _numbers_in(f"{path}.{key}", part)
    return found


def refuse_incomparable(
    path: Path, points: Sequence[BaselinePoint], files: Sequence[Mapping[str, str]]
) -> None:
    """Raise `InputError` for the first point that reads other files now (``files``) than then."""
    for point, now in zip(points, files, strict=True):
        for name, digest in point.files.items():
            if now.get(name) != digest:
                state = "has changed" if name in now else "is missing"
                raise InputError(
                    f"{path}: {point.name}: cannot be compared: {name} {state} since it was saved"
                )
