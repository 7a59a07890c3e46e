"""`kvlab workload`: a workload in numbers and pictures, and as a file."""

from __future__ import annotations

from pathlib import Path

import typer


def add_to(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command()(workload)


def workload(
    name: str = typer.Argument(
        metavar="NAME|TRACE", help="Generator, READER:PATH of a trace, or a path alone."
    ),
    requests: int | None = typer.Option(None, help="Number of requests at most."),
    rate: float | None = typer.Option(None, help="Mean requests a second."),
    seed: int | None = typer.Option(None, help="Seed of all that is drawn."),
    workload_option: list[str] = typer.Option(
        [], metavar="KEY=VALUE", help="Option of the workload; may be repeated."
    ),
    block_size: int = typer.Option(
        1, min=1, help="Blocks in which the ideal hit rate counts; 1: tokens."
    ),
    tpot: float = typer.Option(
        0.02, min=0, help="Seconds a token for what only an engine could say."
    ),
    out: Path | None = typer.Option(None, help="Write the requests there, in kvlab's format."),
    plot: Path | None = typer.Option(None, help="Write figures (SVG and PNG) to a directory."),
    json: bool = typer.Option(False, "--json", help="Print one JSON object on stdout."),
) -> None:
    """Describe a workload: lengths, arrivals, concurrency, reuse; write and draw it."""
    from kvlab.options import pairs
    from workloads.spec import workload_of
    from workloads.statistics import statistics_of
    from workloads.traces.writer import write_requests

    options = pairs(workload_option, "--workload-option")
    described = workload_of(name, requests=requests, rate=rate, seed=seed, **options)
    if plot is not None:
        from reports.write_workload import ensure_workload_fits

        ensure_workload_fits(plot)
    statistics = statistics_of(described, tpot)
    summary = statistics.summary(block_size)
    if out is not None:
        write_requests(described, out)
    if plot is not None:
        from reports.write_workload import write_workload

        write_workload(statistics, plot)
    if json:
        import json as encoder

        typer.echo(encoder.dumps(summary, indent=2, allow_nan=False))
        return
    from reports.workload import lines_of

    for line in lines_of(summary):
        typer.echo(line)
    if out is not None:
        typer.echo(f"Requests: {out}")
    if plot is not None:
        typer.echo(f"Figures: {plot}")
