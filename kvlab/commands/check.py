"""`kvlab check`: whether anything changed since a baseline was saved, or takes longer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from reports.baseline import BaselinePoint

FAILED_CHECK = 1
PLAIN_WIDTH = 120


def add_to(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command()(check)


def check(
    baseline: Path = typer.Option(..., metavar="FILE", help="What kvlab baseline save wrote."),
    allow_better: bool = typer.Option(
        False, "--allow-better", help="Exit with status 0 where everything that changed is better."
    ),
    junit: Path | None = typer.Option(None, help="Write JUnit XML there."),
    markdown: Path | None = typer.Option(None, help="Append Markdown there (a job's summary)."),
    smaller: Path | None = typer.Option(None, help="Write customSmallerIsBetter JSON there."),
    bigger: Path | None = typer.Option(None, help="Write customBiggerIsBetter JSON there."),
    bencher: Path | None = typer.Option(None, help="Write Bencher Metric Format JSON there."),
    jobs: int = typer.Option(-1, help="Processes; -1: one a core, 1: only this one."),
) -> None:
    """Run what a baseline ran; exit status 1 where a number differs by more than is tolerated."""
    from rich.console import Console

    from kvlab.study.gate import check as run_check
    from reports import gate_output
    from reports.sweep import write_whole

    verdict, now = run_check(baseline, jobs=jobs)
    console = Console()
    if not console.is_terminal:
        console = Console(width=PLAIN_WIDTH)
    console.print(gate_output.terminal(verdict))
    if junit is not None:
        write_whole(junit, gate_output.junit(verdict))
    if markdown is not None:
        _append(markdown, gate_output.markdown(verdict))
    _write_histories(now, smaller, bigger, bencher)
    if verdict.is_worse or (not verdict.passes and not allow_better):
        raise typer.Exit(FAILED_CHECK)


def _append(path: Path, text: str) -> None:
    from workloads.errors import InputError

    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from error


def _write_histories(
    now: list[BaselinePoint], smaller: Path | None, bigger: Path | None, bencher: Path | None
) -> None:
    from reports.bench_formats import bencher_json, github_action_json
    from reports.gate import HISTORY, measured_rows
    from reports.sweep import write_whole

    rows = measured_rows(now, HISTORY)
    for path, is_smaller in ((smaller, True), (bigger, False)):
        if path is not None:
            write_whole(path, github_action_json(rows, smaller_is_better=is_smaller))
    if bencher is not None:
        write_whole(bencher, bencher_json(rows))
