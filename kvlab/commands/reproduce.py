"""`kvlab reproduce`: published results beside what kvlab makes of them."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import typer

from workloads.errors import InputError

if TYPE_CHECKING:
    from kvlab.reproduce.findings import Reproduction

FAILED_CHECK = 1
PLAIN_WIDTH = 110


def add_to(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command()(reproduce)


def reproduce(
    name: str | None = typer.Argument(None, help="Experiment, or all; --list names them."),
    list_: bool = typer.Option(False, "--list", help="List the experiments."),
    data: Path | None = typer.Option(None, metavar="DIR", help="Folder with the published data."),
    out: Path | None = typer.Option(None, metavar="DIR", help="Write NAME.svg and NAME.png there."),
    json: bool = typer.Option(False, "--json", help="Print JSON, one object an experiment."),
    markdown: bool = typer.Option(False, "--markdown", help="Print a section of a page each."),
) -> None:
    """Published figure, kvlab's, the difference; exit status 1 where the target is missed."""
    from kvlab.reproduce import EXPERIMENTS, experiment_of
    from kvlab.reproduce.show import PAGE_HEAD

    if list_:
        _print_list()
        return
    if name is None:
        raise InputError("expected the name of an experiment, all, or --list")
    modules = {each: experiment_of(each) for each in (EXPERIMENTS if name == "all" else (name,))}
    if markdown and name == "all":
        print(PAGE_HEAD)
    missed = False
    for each, module in modules.items():
        found = module.reproduce(data)
        _print(each, module, found, json, markdown)
        if out is not None:
            _draw(each, module, found, out)
        missed |= bool(found.missed)
    if missed:
        raise typer.Exit(FAILED_CHECK)


def _print_list() -> None:
    from kvlab.reproduce import EXPERIMENTS, experiment_of

    for name in EXPERIMENTS:
        module = experiment_of(name)
        typer.echo(f"{name:24} {module.TITLE}")
        files = getattr(module, "FILES", ())
        if files:
            typer.echo(f"{'':24} needs --data DIR with {', '.join(files)}")


def _print(name: str, module: ModuleType, found: Reproduction, json: bool, markdown: bool) -> None:
    from kvlab.reproduce.show import markdown_of, plain_of, print_to

    if json:
        import json as json_module

        json_module.dump(plain_of(name, module, found), sys.stdout, indent=2, allow_nan=False)
        print()
    elif markdown:
        print(markdown_of(name, module, found))
    else:
        from rich.console import Console

        console = Console()
        if not console.is_terminal:
            console = Console(width=PLAIN_WIDTH)
        print_to(console, name, module, found)


def _draw(name: str, module: ModuleType, found: Reproduction, out: Path) -> None:
    """Both formats of the picture, each renamed into place when it is complete."""
    if not hasattr(module, "draw"):
        typer.echo(f"kvlab: {name} has no picture", err=True)
        return
    from reports.plots import rendered

    png, svg = rendered(lambda: module.draw(found))
    try:
        out.mkdir(parents=True, exist_ok=True)
        for kind, content in (("png", png), ("svg", svg)):
            partial = out / f".{name}.{kind}.partial"
            partial.write_bytes(content)
            partial.rename(out / f"{name}.{kind}")
    except OSError as error:
        raise InputError(f"{out}: cannot be written: {error.strerror or error}") from error
