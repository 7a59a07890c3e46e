"""`kvlab validate`: a measured vLLM run against its simulation."""

from __future__ import annotations

import sys
from pathlib import Path

import typer

FAILED_CHECK = 1


def add_to(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command()(validate)


def validate(
    run: Path = typer.Argument(
        ..., metavar="RUN_DIR", help="Folder with requests.jsonl and meta.json of a run."
    ),
    profile: Path | None = typer.Option(
        None, help="Layerwise profile; by default RUN_DIR/profile."
    ),
    model: str | None = typer.Option(None, help="Model, in place of RUN_DIR/model_config.json."),
    hardware: str | None = typer.Option(None, help="Hardware sheet, in place of cluster.json's."),
    kv_blocks: int | None = typer.Option(None, min=1, help="Blocks that hold K/V."),
    max_error: float | None = typer.Option(
        None, min=0, help="Exit with status 1 where any difference is larger, in per cent."
    ),
    exact_steps: bool = typer.Option(False, "--exact-steps", help="Take every step by itself."),
    out: Path | None = typer.Option(None, help="Write validation.json and plots there."),
    json: bool = typer.Option(False, "--json", help="Print one JSON object on stdout."),
) -> None:
    """Simulate a measured vLLM run with its settings; latencies and load side by side."""
    from kvlab.validation import validate as run_both
    from reports.validation import differences, largest_difference
    from reports.write_validation import ensure_validation_fits, write_validation

    if out is not None:
        ensure_validation_fits(out)
    both = run_both(
        run,
        profile=profile,
        model=model,
        hardware=hardware,
        kv_blocks=kv_blocks,
        exact_steps=exact_steps,
    )
    found = differences(both.measured, both.simulated)
    if out is not None:
        write_validation(both.measured, both.simulated, out)
    if json:
        import json as json_module

        json_module.dump(found, sys.stdout, indent=2, allow_nan=False)
        print()
    else:
        from rich.console import Console

        from reports.validation import latency_table, load_table

        console = Console()
        console.print(latency_table(both.measured, both.simulated))
        console.print(load_table(both.measured, both.simulated))
        for note in both.notes:
            console.print(note, soft_wrap=True)
        if out is not None:
            console.print(f"Plots: {out / 'plots'}", soft_wrap=True)
    if max_error is not None and largest_difference(found) > max_error:
        raise typer.Exit(FAILED_CHECK)
