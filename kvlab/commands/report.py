"""`kvlab report`: tables, pictures and a page from the stored results of a sweep alone."""

from __future__ import annotations

from pathlib import Path

import typer


def add_to(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command()(report)


def report(
    directory: Path = typer.Argument(..., metavar="DIR", help="Results of kvlab sweep."),
    out: Path | None = typer.Option(None, help="Write report.md and its pictures there."),
) -> None:
    """Print the tables of a sweep; with --out also write its page. Nothing is run."""
    from kvlab.study.reporting import print_sweep, write_page
    from reports.sweep import Sweep

    stored = Sweep.load(directory)
    print_sweep(stored)
    if out is not None:
        page = write_page(stored, out, "report", f"kvlab report {directory} --out {out}")
        typer.echo(f"Page: {page}")
