"""Shows a stored sweep: on the terminal, and as a page with pictures."""

from __future__ import annotations

from pathlib import Path

from reports.sweep import Sweep, write_whole
from reports.sweep_page import markdown, terminal

PLAIN_WIDTH = 140
"""Columns of the printed tables where the output is no terminal."""


def print_sweep(sweep: Sweep) -> None:
    """Print all tables of a sweep."""
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console = Console(width=PLAIN_WIDTH)
    console.print(terminal(sweep))


def write_page(sweep: Sweep, out: Path, name: str, command: str) -> Path:
    """Write ``out/NAME.md``; its path is returned. Raises `InputError`."""
    page = out / f"{name}.md"
    write_whole(page, markdown(sweep, command))
    return page
