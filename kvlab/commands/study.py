"""`kvlab study`: a question that people ask, answered from scratch."""

from __future__ import annotations

from pathlib import Path

import typer

from workloads.errors import InputError


def add_to(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command()(study)


def study(
    name: str | None = typer.Argument(None, help="A ready study, or a study file (.toml)."),
    list_all: bool = typer.Option(False, "--list", help="List the ready studies."),
    out: Path | None = typer.Option(None, help="Write NAME.md and its pictures there."),
    results: Path | None = typer.Option(
        None, help="Keep the results of the points there; what it holds is not run again."
    ),
    jobs: int = typer.Option(-1, help="Processes; -1: one a core, 1: only this one."),
) -> None:
    """Run a ready study and print its tables; with --out also write its page."""
    from tempfile import TemporaryDirectory

    from kvlab.study.progress import PointsBar
    from kvlab.study.ready import ready_study, study_at, study_names
    from kvlab.study.reporting import ensure_page_fits, print_sweep, write_page
    from kvlab.study.sweeping import sweep

    if list_all:
        for each in study_names():
            if title := ready_study(each).title:
                typer.echo(f"{each:24} {title}")
        return
    if name is None:
        raise InputError(f"study: expected a name ({', '.join(study_names())}), or --list")
    asked = study_at(name)
    if out is not None:
        ensure_page_fits(out, Path(name).stem)
    with TemporaryDirectory(prefix="kvlab-") as scratch, PointsBar() as bar:
        where = results if results is not None else Path(scratch) / "sweep"
        stored = sweep(asked, where, jobs=jobs, retry=True, done=bar.update)
        print_sweep(stored)
        if out is not None:
            page = write_page(stored, out, Path(name).stem, f"kvlab study {name} --out {out}")
            typer.echo(f"Page: {page}")
