"""The command line. Commands live in `kvlab.commands`, one file each, and import what they need."""

from __future__ import annotations

import os
import sys
import warnings
from importlib import import_module
from pkgutil import iter_modules
from typing import NoReturn

import typer

import kvlab.commands
from kvlab.quick import QuickGroup
from workloads.errors import InputError

FAILED_CHECK = 1
USAGE = 2
INTERRUPTED = 130


def application() -> typer.Typer:
    """The command line with every command of `kvlab.commands`."""
    app = typer.Typer(
        name="kvlab",
        cls=QuickGroup,
        help="Compare KV-cache policies of LLM engines: which serves best, and why.",
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    app.callback(invoke_without_command=True)(_kvlab)
    for module in iter_modules(kvlab.commands.__path__, "kvlab.commands."):
        import_module(module.name).add_to(app)
    return app


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"kvlab {kvlab.__version__}")
        raise typer.Exit


def _kvlab(
    context: typer.Context,
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version."
    ),
) -> None:
    """Compare KV-cache policies of LLM engines: which serves best, and why."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(USAGE)


def main() -> NoReturn:
    """Run the command line; one clear line and the right exit code for whatever goes wrong."""
    # So that `mymodule:MyPolicy` is found beside the user; last, to shadow nothing of ours.
    sys.path.append(os.getcwd())
    warnings.showwarning = _warn
    try:
        code = application()(standalone_mode=False)
        if code == INTERRUPTED:
            raise KeyboardInterrupt
    except InputError as error:
        code = _complain(str(error), USAGE)
    except typer.TyperException as error:
        code = _complain(error.format_message(), USAGE)
    except (KeyboardInterrupt, typer.Abort):
        code = _complain("interrupted; nothing was written", INTERRUPTED)
    except BrokenPipeError:
        code = INTERRUPTED
    sys.exit(code or 0)


def _warn(message: Warning | str, *_: object, **__: object) -> None:
    print(f"kvlab: {message}", file=sys.stderr)


def _complain(line: str, code: int) -> int:
    print(f"kvlab: {line}", file=sys.stderr)
    return code
