"""`kvlab export`: one run for other people's tools, and pictures of single requests."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from workloads.errors import InputError

if TYPE_CHECKING:
    from reports.results import RunResult


def add_to(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command()(export)


def export(
    result: Path = typer.Argument(..., metavar="RESULT_DIR", help="Directory of one run."),
    perfetto: Path | None = typer.Option(
        None, metavar="FILE", help="Chrome JSON trace: a track a sequence, memory as counters."
    ),
    prometheus: Path | None = typer.Option(
        None, metavar="FILE", help="OpenMetrics with timestamps, under vLLM's metric names."
    ),
    epoch: float = typer.Option(0.0, help="Start of the run in --prometheus, seconds since 1970."),
    waterfall: Path | None = typer.Option(
        None, metavar="FILE", help="Picture (.svg or .png) of the lives of single requests."
    ),
    request: list[int] = typer.Option([], help="A request of --waterfall; may be repeated."),
    memory_map: Path | None = typer.Option(
        None, metavar="FILE", help="Page (.html) with a memory map to zoom into."
    ),
    start: float = typer.Option(0.0, min=0, help="First second of --memory-map."),
    end: float | None = typer.Option(None, min=0, help="Last second of --memory-map."),
) -> None:
    """Write a stored run in other formats: Perfetto, Prometheus, pictures, pages."""
    from reports.results import RunResult

    if not (perfetto or prometheus or waterfall or memory_map):
        raise InputError("expected --perfetto, --prometheus, --waterfall or --memory-map")
    if (result / "comparison.json").is_file():
        names = sorted(path.parent.name for path in result.glob("*/summary.json"))
        raise InputError(f"{result}: a comparison; expected one of its runs: {', '.join(names)}")
    run = RunResult.load(result)
    if perfetto is not None:
        from reports.perfetto import write_trace

        write_trace(run, perfetto)
    if prometheus is not None:
        from reports.prometheus import write_metrics

        write_metrics(run, prometheus, epoch)
    if waterfall is not None:
        _write_waterfall(run, request, waterfall)
    if memory_map is not None:
        _write_memory_map(run, start, end, memory_map)


def _write_waterfall(run: RunResult, requests: list[int], path: Path) -> None:
    from reports.phases import check_phases
    from reports.plots import rendered
    from reports.plots.waterfall import draw

    if path.suffix not in (".png", ".svg"):
        raise InputError(f"--waterfall {path}: expected a name that ends with .svg or .png")
    check_phases(run.requests)
    png, svg = rendered(lambda: draw({str(run.summary["policy"]): run}, requests))
    _write(path, png if path.suffix == ".png" else svg)


def _write_memory_map(run: RunResult, start: float, end: float | None, path: Path) -> None:
    """The run is made again with samples in the window alone, so that they lie close together."""
    from kvlab.config import RunConfig
    from kvlab.running import run as run_again
    from reports.memory_page import memory_page

    last = float(run.summary["makespan_s"])
    end = last if end is None else min(end, last)
    if not start < end:
        raise InputError(f"--start {start:g} --end {end:g}: expected a window within 0 to {last:g}")
    again = run_again(RunConfig.of(run.config), window=(start, end))
    _write(path, memory_page(again, start, end).encode())


def _write(path: Path, content: bytes) -> None:
    from reports.directory import whole_file

    with whole_file(path) as file:
        file.buffer.write(content)
