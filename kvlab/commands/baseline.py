"""`kvlab baseline save`: the numbers of a study, to be compared with later."""

from __future__ import annotations

from pathlib import Path

import typer


def add_to(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    group = typer.Typer(help="Keep the numbers of a study, for kvlab check.", no_args_is_help=True)
    group.callback()(lambda: None)
    group.command()(save)
    app.add_typer(group, name="baseline")


def save(
    file: Path = typer.Argument(..., metavar="FILE", help="Baseline to write (JSON)."),
    study: str = typer.Argument("gate", help="A ready study, or a study file (.toml)."),
    jobs: int = typer.Option(-1, help="Processes; -1: one a core, 1: only this one."),
) -> None:
    """Run a study and write all its numbers to FILE."""
    from kvlab.study.gate import baseline_of
    from kvlab.study.ready import study_at

    baseline = baseline_of(study_at(study), jobs=jobs)
    baseline.save(file)
    numbers = sum(len(point.metrics) for point in baseline.points)
    failed = sum(point.failure is not None for point in baseline.points)
    typer.echo(f"{file}: {len(baseline.points)} runs ({failed} failed), {numbers:,} numbers")
