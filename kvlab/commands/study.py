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
    workload: str | None = typer.Option(
        None, help="Other traffic: a generator, or READER:PATH of your own trace."
    ),
    requests: int | None = typer.Option(None, help="With --workload: requests at most."),
    rate: float | None = typer.Option(
        None, help="With --workload: mean requests a second; by default a trace's own."
    ),
    jobs: int = typer.Option(-1, help="Processes; -1: one a core, 1: only this one."),
) -> None:
    """Run a ready study and print its tables; with --out also write its page."""
    import shlex
    from tempfile import TemporaryDirectory

    from kvlab.progress import PointsBar
    from kvlab.study.ready import ready_study, study_at, study_names, with_traffic
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
    if workload is not None:
        asked = with_traffic(asked, workload, requests, rate)
    elif requests is not None or rate is not None:
        raise InputError("study: --requests and --rate go with --workload")
    if out is not None:
        ensure_page_fits(out, Path(name).stem)
    with TemporaryDirectory(prefix="kvlab-") as scratch, PointsBar() as bar:
        where = results if results is not None else Path(scratch) / "sweep"
        stored = sweep(asked, where, jobs=jobs, retry=True, done=bar.update)
        print_sweep(stored)
        if out is not None:
            traffic = {"workload": workload, "requests": requests, "rate": rate}
            given = [
                f"--{key} {shlex.quote(str(v))}" for key, v in traffic.items() if v is not None
            ]
            command = " ".join(["kvlab study", name, *given, f"--out {out}"])
            page = write_page(stored, out, Path(name).stem, command)
            typer.echo(f"Page: {page}")
