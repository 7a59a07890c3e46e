"""`kvlab conform`: replay recordings of real engines and compare every decision."""

from __future__ import annotations

from pathlib import Path

import typer


def add_to(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command()(conform)


def conform(
    recordings: list[Path] = typer.Argument(..., help="Recordings (.jsonl, .jsonl.gz) or folders."),
) -> None:
    """Replay recordings of llama.cpp or vLLM; exit status 1 where kvlab decides otherwise."""
    from backends.conformance.check import check

    report = check(recordings)
    typer.echo(report.summary())
    for reason in report.skipped:
        typer.echo(f"not replayable: {reason}")
    if report.first is not None:
        typer.echo(report.first)
    if report.mismatches:
        raise typer.Exit(1)
