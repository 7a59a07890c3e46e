"""Shows a stored sweep: on the terminal, and as a page with pictures."""

from __future__ import annotations

from pathlib import Path

from kvlab.reproduce.findings import Reproduction
from reports.directory import ensure_replaceable, replacing
from reports.sweep import Sweep, write_whole
from reports.sweep_page import markdown, terminal
from reports.sweep_pictures import pictures_of

PLAIN_WIDTH = 140
"""Columns of the printed tables where the output is no terminal."""


def print_sweep(sweep: Sweep) -> None:
    """Print all tables of a sweep."""
    from rich.console import Console

    from kvlab.reproduce import experiment_of
    from kvlab.reproduce.show import print_to
    from kvlab.study.experiments import stored_experiments

    console = Console()
    if not console.is_terminal:
        console = Console(width=PLAIN_WIDTH)
    console.print(terminal(sweep))
    for name, found in stored_experiments(sweep):
        print_to(console, name, experiment_of(name), found)


def write_page(sweep: Sweep, out: Path, name: str, command: str) -> Path:
    """Write ``out/NAME.md`` and its pictures in ``out/NAME``; the page's path is returned.

    Raises `InputError` where something else is in the way.
    """
    from kvlab.study.experiments import picture_of, stored_experiments

    page = out / f"{name}.md"
    shown = [(picture, f"{name}/{picture.name}.svg") for picture in pictures_of(sweep)]
    sections, more = [], []
    for experiment, found in stored_experiments(sweep):
        picture = picture_of(experiment, found)
        file = None if picture is None else f"{name}/{experiment}.svg"
        sections.append(_section(experiment, found, file))
        more += [] if picture is None else [picture]
    pictures = [picture for picture, _ in shown] + more
    if pictures:
        with replacing(out / name, _are_pictures) as folder:
            for picture in pictures:
                (folder / f"{picture.name}.svg").write_bytes(picture.svg)
                (folder / f"{picture.name}.png").write_bytes(picture.png)
    write_whole(page, markdown(sweep, command, shown, sections))
    return page


def _section(name: str, found: Reproduction, picture: str | None) -> str:
    """An experiment as a section of the page; file name of its picture."""
    from kvlab.reproduce import experiment_of
    from kvlab.reproduce.show import markdown_of

    module = experiment_of(name)
    text = markdown_of(name, module, found).strip()
    return text if picture is None else f"{text}\n\n![{module.TITLE}]({picture})"


def ensure_page_fits(out: Path, name: str) -> None:
    """Raise `InputError` where `write_page` would; for asking before a long run."""
    ensure_replaceable(out / name, _are_pictures)


def _are_pictures(folder: Path) -> bool:
    return all(path.suffix in (".svg", ".png") for path in folder.iterdir())
