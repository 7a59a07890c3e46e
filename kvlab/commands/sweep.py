"""`kvlab sweep`: all points of a study, in parallel, each stored as soon as it is done."""

from __future__ import annotations

from pathlib import Path

import typer

INTERRUPTED = 130


def add_to(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command()(sweep)


def sweep(
    study: Path = typer.Argument(..., metavar="STUDY.toml", help="What to run."),
    out: Path = typer.Option(..., help="Directory of results; what it holds is not run again."),
    jobs: int = typer.Option(-1, help="Processes; -1: one a core, 1: only this one."),
    dask: str | None = typer.Option(
        None, metavar="ADDRESS", help="Run on the workers of this Dask scheduler instead."
    ),
    retry_failed: bool = typer.Option(False, "--retry-failed", help="Also run what failed before."),
) -> None:
    """Run a study's points; run it again after whatever cut it off, and it goes on."""
    from kvlab.progress import PointsBar
    from kvlab.study.schema import Study
    from kvlab.study.sweeping import sweep as run_all

    asked = Study.load(study)
    try:
        with PointsBar() as bar:
            stored = run_all(asked, out, jobs=jobs, dask=dask, retry=retry_failed, done=bar.update)
    except KeyboardInterrupt:
        typer.echo(f"kvlab: interrupted; run it again to go on where {out} ends", err=True)
        raise typer.Exit(INTERRUPTED) from None
    entries = stored.entries()
    failed = [reason for entry in entries if (reason := stored.failure_of(entry)) is not None]
    typer.echo(f"{out}: {len(entries)} points, {len(failed)} failed; tables: kvlab report {out}")
    for reason in dict.fromkeys(failed):
        typer.echo(f"failed {failed.count(reason)} times: {reason}")
