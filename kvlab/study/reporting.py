"""Shows a stored sweep: on the terminal, and as a page with pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from reports.directory import ensure_replaceable, replacing
from reports.plots import Picture
from reports.sweep import Sweep, write_whole
from reports.sweep_html import Section, html_of
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
    return _write_markdown(sweep, out, name, command, list(pictures_of(sweep)), _sections_of(sweep))


def write_report(sweep: Sweep, out: Path, name: str, command: str) -> Path:
    """The same, and ``out/NAME.html``, which needs no other file; its path is returned."""
    pictures, sections = list(pictures_of(sweep)), _sections_of(sweep)
    _write_markdown(sweep, out, name, command, pictures, sections)
    page = out / f"{name}.html"
    write_whole(page, html_of(sweep, command, pictures, sections))
    return page


def _write_markdown(
    sweep: Sweep,
    out: Path,
    name: str,
    command: str,
    pictures: Sequence[Picture],
    sections: Sequence[Section],
) -> Path:
    drawn = [*pictures, *(each.picture for each in sections if each.picture is not None)]
    if drawn:
        with replacing(out / name, _are_pictures) as folder:
            for picture in drawn:
                (folder / f"{picture.name}.svg").write_bytes(picture.svg)
                (folder / f"{picture.name}.png").write_bytes(picture.png)
    page = out / f"{name}.md"
    shown = [(picture, f"{name}/{picture.name}.svg") for picture in pictures]
    texts = [
        each.text + (f"\n\n![{each.title}]({name}/{each.name}.svg)" if each.picture else "")
        for each in sections
    ]
    write_whole(page, markdown(sweep, command, shown, texts))
    return page


def _sections_of(sweep: Sweep) -> list[Section]:
    """The experiments of a sweep."""
    from kvlab.reproduce import experiment_of
    from kvlab.reproduce.show import markdown_of
    from kvlab.study.experiments import picture_of, stored_experiments

    sections = []
    for name, found in stored_experiments(sweep):
        module = experiment_of(name)
        text = markdown_of(name, module, found).strip()
        sections.append(Section(name, module.TITLE, text, picture_of(name, found)))
    return sections


def ensure_page_fits(out: Path, name: str) -> None:
    """Raise `InputError` where `write_page` would; for asking before a long run."""
    ensure_replaceable(out / name, _are_pictures)


def _are_pictures(folder: Path) -> bool:
    return all(path.suffix in (".svg", ".png") for path in folder.iterdir())
