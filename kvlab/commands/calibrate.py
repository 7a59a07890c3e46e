"""`kvlab calibrate`: measure this machine, for `--time-model calibration:FILE`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

PLAIN_WIDTH = 120


def add_to(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command()(calibrate)


def calibrate(
    out: Path = typer.Option(..., help="Calibration file (JSON) to write."),
    model: str = typer.Option("llama-3.1-8b", help="Built-in model, config.json or TOML file."),
    backend: str = typer.Option("numpy", help="numpy (this CPU) or cupy (its GPU)."),
    kv_type: list[str] = typer.Option(
        ["f16"], help="Type of cached K and V to measure; may be repeated."
    ),
    prefill: str = typer.Option(
        "auto", help="matmul, cudnn (a GPU's fused attention), or auto: cudnn where it is there."
    ),
    quick: bool = typer.Option(False, "--quick", help="Fewer and smaller points: a minute."),
    plot: Path | None = typer.Option(
        None, help="Draw predicted over measured times into this file (.png or .svg)."
    ),
) -> None:
    """Measure copies, attention and matrix products here, fit them, and say how well that went.

    A run that was interrupted goes on where it was when it is started again.
    """
    from datetime import UTC, datetime

    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    from backends.calibrate.run import Request
    from backends.calibrate.run import calibrate as measure
    from reports.calibration import ensure_plot_fits, write_plot
    from sim.model_files.lookup import model_of

    if plot is not None:
        ensure_plot_fits(plot)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    kinds = tuple(dict.fromkeys(kv_type))
    request = Request(model_of(model), backend, kinds, quick, now, prefill)
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    console = Console(stderr=True)
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("")
        data = measure(
            request,
            out,
            lambda done, points, key: bar.update(
                task, completed=done, total=points, description=key
            ),
        )
    _print_errors(data, out)
    if plot is not None:
        write_plot(data, plot)


def _print_errors(data: dict[str, Any], out: Path) -> None:
    """Errors of the points that were held out, by kernel."""
    from rich.console import Console

    from reports.calibration import error_table

    console = Console()
    if not console.is_terminal:
        console = Console(width=PLAIN_WIDTH)
    console.print(f"{data['device']}, {data['model']}: {len(data['points'])} points", markup=False)
    clocks = data["clocks"]
    if clocks.get("load", 0) > clocks.get("processors", 0) > 0:
        console.print(
            f"This machine was busy: {clocks['load']} processors were wanted where there are"
            f" {clocks['processors']}, so times are those of a queue.",
            soft_wrap=True,
        )
    console.print("Prediction of points that were not fitted, off by (relative):")
    console.print(error_table(data))
    console.print(f"Use it with --time-model calibration:{out}", soft_wrap=True, markup=False)
