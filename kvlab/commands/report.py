"""`kvlab report`: tables, pictures and pages from stored results alone."""

from __future__ import annotations

from pathlib import Path

import typer

from workloads.errors import InputError


def add_to(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command()(report)


def report(
    directory: Path = typer.Argument(
        ..., metavar="DIR", help="Results of kvlab sweep, or of kvlab compare --out."
    ),
    out: Path | None = typer.Option(
        None, help="Write report.html and all pictures there instead of into DIR."
    ),
) -> None:
    """Make all pictures and pages of stored results (of a sweep: print its tables, too)."""
    from kvlab.study.reporting import ensure_page_fits, print_sweep, write_report
    from reports.sweep import INDEX as SWEEP
    from reports.sweep import Sweep
    from reports.write import INDEX, ensure_comparison_fits, read_comparison, write_comparison

    where = directory if out is None else out
    if (directory / INDEX).is_file():
        ensure_comparison_fits(where)
        write_comparison(read_comparison(directory), where)
        page = where / "report.html"
    elif not (directory / SWEEP).is_file():
        raise InputError(
            f"{directory}: expected what kvlab sweep --out or kvlab compare --out has written"
        )
    else:
        stored = Sweep.load(directory)
        ensure_page_fits(where, "report")
        print_sweep(stored)
        command = f"kvlab report {directory}" + ("" if out is None else f" --out {out}")
        page = write_report(stored, where, "report", command)
    typer.echo(f"Page: {page}")
