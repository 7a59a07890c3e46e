"""Everything that a comparison leaves on disk, made from the results of its runs alone."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from reports.directory import ensure_replaceable, replacing
from reports.metrics import VOLATILE
from reports.page import page_of
from reports.plots import pictures_of
from reports.results import RunResult, json_text
from reports.verdict import verdict_of
from workloads.errors import InputError

INDEX = "comparison.json"
PLOTS_DIRECTORY = "plots"
FORMAT = 1


def ensure_comparison_fits(directory: str | Path) -> None:
    """Raise `InputError` now where `write_comparison` would later; changes nothing."""
    ensure_replaceable(directory, _is_comparison)


def write_comparison(runs: Mapping[str, RunResult], directory: str | Path) -> None:
    """Write run directories, plots, ``report.html`` and ``comparison.json``, all or nothing.

    ``runs`` is by policy, in the order of the tables. An earlier comparison in ``directory`` is
    replaced; `InputError` is raised where it holds anything else or cannot be written. Equal runs
    give equal bytes, so metrics that are not repeatable (`VOLATILE`) are left out everywhere.
    """
    if not runs:
        raise InputError("nothing to report: no policy was run")
    stored = {policy: _repeatable(run) for policy, run in runs.items()}
    directories = directories_of(stored)
    with replacing(directory, _is_comparison) as root:
        for policy, run in stored.items():
            (root / directories[policy]).mkdir()
            run.write_files(root / directories[policy])
        (root / PLOTS_DIRECTORY).mkdir()
        pictures = list(pictures_of(stored))
        for picture in pictures:
            (root / PLOTS_DIRECTORY / f"{picture.name}.png").write_bytes(picture.png)
            (root / PLOTS_DIRECTORY / f"{picture.name}.svg").write_bytes(picture.svg)
        page = page_of(stored, pictures, directories)
        (root / "report.html").write_text(page, "utf-8")
        _write_index(root, stored, directories)


def read_comparison(directory: str | Path) -> dict[str, RunResult]:
    """The runs of a comparison by policy, in their order; `InputError` where it is damaged."""
    index = Path(directory) / INDEX
    try:
        policies = json.loads(index.read_text("utf-8"))["policies"]
        return {each["name"]: RunResult.load(index.parent / each["directory"]) for each in policies}
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{index}: cannot be read: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{index}: truncated or not a comparison of kvlab") from error


def directories_of(policies: Iterable[str]) -> dict[str, str]:
    """A directory name for each policy: its own name where that is a plain one.

    Other characters become ``_``, and a number tells names apart that would then be one (also on
    file systems that do not mind case).
    """
    taken = {PLOTS_DIRECTORY, INDEX, "report.html"}
    names = {}
    for policy in policies:
        plain = re.sub(r"[^A-Za-z0-9._=+-]", "_", policy).lstrip(".")[:100] or "policy"
        name, number = plain, 2
        while name.casefold() in taken:
            name, number = f"{plain}-{number}", number + 1
        taken.add(name.casefold())
        names[policy] = name
    return names


def _repeatable(run: RunResult) -> RunResult:
    kept = {name: value for name, value in run.summary.items() if name not in VOLATILE}
    return replace(run, summary=kept)


def _write_index(root: Path, runs: Mapping[str, RunResult], directories: Mapping[str, str]) -> None:
    summaries = {policy: run.summary for policy, run in runs.items()}
    verdict = verdict_of(summaries)
    index = {
        "format": FORMAT,
        "policies": [{"name": policy, "directory": directories[policy]} for policy in runs],
        "metrics": {
            policy: {key: value for key, value in summary.items() if key != "itl_cdf"}
            for policy, summary in summaries.items()
        },
        "best": list(verdict.leaders),
        "verdict": list(verdict.lines),
        "files": [*_files_below(root), INDEX],
    }
    (root / INDEX).write_text(json_text(index), "utf-8")


def _files_below(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir())


def _is_comparison(root: Path) -> bool:
    """Whether the index of an earlier comparison names every file that is there."""
    try:
        index = json.loads((root / INDEX).read_text("utf-8"))
        return index["format"] == FORMAT and set(_files_below(root)) <= set(index["files"])
    except (OSError, ValueError, KeyError, TypeError):
        return False
