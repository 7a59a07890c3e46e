"""Shows a stored sweep: on the terminal, and as a page with pictures."""

from __future__ import annotations

from pathlib import Path

from reports.directory import ensure_replaceable, replacing
from reports.sweep import Sweep, write_whole
from reports.sweep_page import markdown, terminal
from reports.sweep_pictures import pictures_of

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
    """Write ``out/NAME.md`` and its pictures in ``out/NAME``; the page's path is returned.

    Raises `InputError` where something else is in the way.
    """
    page, shown = out / f"{name}.md", []
    pictures = list(pictures_of(sweep))
    if pictures:
        with replacing(out / name, _are_pictures) as folder:
            for picture in pictures:
                (folder / f"{picture.name}.svg").write_bytes(picture.svg)
                (folder / f"{picture.name}.png").write_bytes(picture.png)
                shown.append((picture, f"{name}/{picture.name}.svg"))
    write_whole(page, markdown(sweep, command, shown))
    return page


def ensure_page_fits(out: Path, name: str) -> None:
    """Raise `InputError` where `write_page` would; for asking before a long run."""
    ensure_replaceable(out / name, _are_pictures)


def _are_pictures(folder: Path) -> bool:
    return all(path.suffix in (".svg", ".png") for path in folder.iterdir())
