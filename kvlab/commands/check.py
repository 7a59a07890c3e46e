"""`kvlab check`: whether anything changed since a baseline was saved, or takes longer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from workloads.errors import InputError

if TYPE_CHECKING:
    from reports.bench_formats import Measured
    from reports.gate import Verdict
    from reports.timing import Timing

FAILED_CHECK = 1
PLAIN_WIDTH = 120


def add_to(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command()(check)


def check(
    baseline: Path | None = typer.Option(
        None, metavar="FILE", help="What kvlab baseline save wrote: compare simulated numbers."
    ),
    allow_better: bool = typer.Option(
        False, "--allow-better", help="Exit with status 0 where everything that changed is better."
    ),
    old: Path | None = typer.Option(
        None, metavar="PYTHON", help="Interpreter with another kvlab: compare processor time."
    ),
    runs: int = typer.Option(30, min=8, help="Runs of each kvlab, in turns, with --old."),
    study: Path | None = typer.Option(
        None, metavar="STUDY.toml", help="Comparison to time, with --old."
    ),
    history: Path | None = typer.Option(
        None, help="Append this kvlab's times there and say where they changed, with --old."
    ),
    junit: Path | None = typer.Option(None, help="Write JUnit XML there."),
    markdown: Path | None = typer.Option(None, help="Append Markdown there (a job's summary)."),
    smaller: Path | None = typer.Option(None, help="Write customSmallerIsBetter JSON there."),
    bigger: Path | None = typer.Option(None, help="Write customBiggerIsBetter JSON there."),
    bencher: Path | None = typer.Option(None, help="Write Bencher Metric Format JSON there."),
    jobs: int = typer.Option(-1, help="Processes; -1: one a core, 1: only this one."),
) -> None:
    """Run what a baseline ran; exit status 1 where a number differs by more than is tolerated."""
    from reports import gate_output, timing
    from reports.sweep import write_whole

    if baseline is None and old is None:
        raise InputError("check: expected --baseline FILE, --old PYTHON, or both")
    failed, verdict = False, None
    timings: list[Timing] = []
    rows: list[Measured] = []
    if baseline is not None:
        verdict = _check_numbers(baseline, jobs, rows)
        failed |= verdict.is_worse or (not verdict.passes and not allow_better)
    if old is not None:
        timings = _check_times(old, runs, study, history, rows)
        failed |= any(each.kind == "slower" for each in timings)
    if junit is not None:
        write_whole(junit, gate_output.junit(verdict, timings))
    if markdown is not None:
        parts = [gate_output.markdown(verdict)] if verdict is not None else []
        _append(markdown, "\n".join([*parts, *([timing.markdown(timings)] if timings else [])]))
    _write_histories(rows, smaller, bigger, bencher)
    if failed:
        raise typer.Exit(FAILED_CHECK)


def _check_numbers(baseline: Path, jobs: int, rows: list[Measured]) -> Verdict:
    """What changed, printed; the numbers as they are now are added to ``rows``."""
    from rich.console import Console

    from kvlab.study.gate import check as run_check
    from reports import gate_output
    from reports.gate import HISTORY, measured_rows

    verdict, now = run_check(baseline, jobs=jobs)
    console = Console()
    if not console.is_terminal:
        console = Console(width=PLAIN_WIDTH)
    console.print(gate_output.terminal(verdict))
    rows += measured_rows(now, HISTORY)
    return verdict


def _check_times(
    old: Path, runs: int, study: Path | None, history: Path | None, rows: list[Measured]
) -> list[Timing]:
    """What takes longer than in the other installation, printed; times are added to ``rows``."""
    from kvlab.progress import PointsBar
    from kvlab.study.paired import paired_times
    from kvlab.study.ready import FOLDER
    from reports import timing
    from reports.timing_history import History

    with PointsBar() as bar:
        before, after = paired_times(old, study or FOLDER / "speed.toml", runs, bar.update)
    timings = [timing.judge(name, before[name], after[name]) for name in after if name in before]
    for each in timings:
        typer.echo(each.line)
    if history is not None:
        kept = History.load(history).with_times(after)
        kept.save(history)
        for line in kept.lines():
            typer.echo(line)
    rows += timing.measured_rows(after)
    return timings


def _write_histories(
    rows: list[Measured], smaller: Path | None, bigger: Path | None, bencher: Path | None
) -> None:
    from reports.bench_formats import bencher_json, github_action_json
    from reports.sweep import write_whole

    for path, is_smaller in ((smaller, True), (bigger, False)):
        if path is not None:
            write_whole(path, github_action_json(rows, smaller_is_better=is_smaller))
    if bencher is not None:
        write_whole(bencher, bencher_json(rows))


def _append(path: Path, text: str) -> None:
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from error
