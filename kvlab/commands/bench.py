"""`kvlab bench`: how fast the simulator itself is."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from workloads.errors import InputError

if TYPE_CHECKING:
    from kvlab.benchmark.cases import Case
    from reports.bench_formats import Measured

POLICIES = "contiguous,ring,paged,radix,iswa"


class Format(StrEnum):
    """How the numbers are written."""

    TABLE = "table"
    SMALLER = "customSmallerIsBetter"
    BIGGER = "customBiggerIsBetter"
    BMF = "bmf"


class What(StrEnum):
    """What is measured."""

    ALL = "all"
    RUNS = "runs"
    GROWTH = "growth"
    LEAPS = "leaps"
    CHURN = "churn"


def add_to(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command()(bench)


def bench(
    policies: str = typer.Option(POLICIES, help="Policies, separated by commas."),
    workload: list[str] = typer.Option(
        ["chat", "sharegpt"], help="Generator, or READER:PATH of a trace; may be repeated."
    ),
    requests: int = typer.Option(1000, min=10, help="Requests of a run at most."),
    model: str = typer.Option("llama-3.1-8b", help="Model, as in compare."),
    kv_tokens: int = typer.Option(65536, help="K/V memory as tokens."),
    repeats: int = typer.Option(3, min=1, help="Processes a case; the median is shown."),
    what: What = typer.Option(What.ALL, help="Measure only this."),
    format: Format = typer.Option(Format.TABLE, help="A table, or JSON for CI."),
    out: Path | None = typer.Option(None, help="Write it there instead of printing it."),
) -> None:
    """Measure the simulator: throughput, growth, leaps against steps, allocators, memory.

    Every case runs in a process of its own. CPU time is that of the simulation, start-up apart.
    """
    from kvlab.benchmark.measure import rows_of, run_all
    from kvlab.progress import PointsBar

    names = [name.strip() for name in policies.split(",") if name.strip()]
    if not names:
        raise InputError("--policies: expected at least one policy")
    common = {"model": model, "kv_tokens": kv_tokens}
    cases = _cases(common, names, workload, requests, what)
    typer.echo(_build(), err=True)
    with PointsBar("cases") as bar:
        rows = rows_of(run_all(cases, repeats, bar.update))
    text = _text(rows, format)
    if out is None:
        typer.echo(text)
    else:
        from reports.directory import whole_file

        with whole_file(out) as file:
            file.write(text + "\n")


def _build() -> str:
    """Which of the two builds is measured: they differ by a factor of several."""
    from sim import engine

    if engine.__file__.endswith(".py"):
        return "kvlab as it comes; `make compiled` makes one that is several times as fast"
    return "kvlab compiled by mypyc"


def _cases(
    common: dict[str, Any], names: list[str], workloads: list[str], requests: int, what: What
) -> list[Case]:
    from kvlab.benchmark import cases

    made = {
        What.RUNS: cases.throughput_cases(common, names, workloads, requests),
        What.GROWTH: cases.growth_cases(common, names, workloads[0], max(1, requests // 10)),
        What.LEAPS: cases.leap_cases(common, names, workloads[0], max(1, requests // 4)),
        What.CHURN: cases.churn_cases(common, names),
    }
    return [case for kind, found in made.items() if what in (What.ALL, kind) for case in found]


def _text(rows: list[Measured], format: Format) -> str:
    from reports import bench_formats

    if format is Format.BMF:
        return bench_formats.bencher_json(rows)
    if format is Format.TABLE:
        return _table(rows)
    return bench_formats.github_action_json(rows, smaller_is_better=format is Format.SMALLER)


def _table(rows: list[Measured]) -> str:
    width = max(len(row.name) for row in rows)
    lines = []
    for row in rows:
        spread = f" ± {row.spread:,.3g}" if row.spread is not None else ""
        lines.append(f"{row.name:{width}}  {_shown(row.value):>14}{spread}  {row.unit}")
    return "\n".join(lines)


def _shown(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
