"""A sweep in words and tables: for the terminal, and as the Markdown page of a study."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from reports.capacity_table import RATE, capacity_note, capacity_rows
from reports.sweep import Sweep
from reports.sweep_tables import SweepTable, differences_of, failures_of, notes_of, table_of

if TYPE_CHECKING:
    from rich.console import Group

    from reports.plots import Picture

ANSWERED = (
    "*These words were written by hand for this study as it comes; what follows is computed from "
    "the results.*"
)


def terminal(sweep: Sweep) -> Group:
    """All tables of a sweep for a terminal."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table, rates = table_of(sweep), capacity_rows(sweep)
    view = Table(title=sweep.index["title"] or None, box=SIMPLE_HEAD, title_justify="left")
    for axis in table.axes:
        view.add_column(Text(axis), overflow="fold")
    for shown in table.metrics:
        view.add_column(Text(f"{shown.label}\n{shown.unit}"), justify="right", overflow="fold")
    last = None
    for row in table.rows:
        if last is not None and row.labels[:-1] != last and len(table.axes) > 1:
            view.add_section()
        last = row.labels[:-1]
        cells = [
            Text(f"{cell.text}*" if cell.best else f"{cell.text} ", "bold" if cell.best else "")
            for cell in row.cells
        ]
        view.add_row(*map(Text, row.labels), *cells)
    parts: list[Any] = [view]
    if rates:
        second = Table(box=SIMPLE_HEAD)
        for axis in sweep.axes:
            second.add_column(Text(axis))
        second.add_column(Text("Capacity\nreq/s"), justify="right")
        for each in rates:
            second.add_row(*map(Text, each.labels), Text(each.text))
        parts += [second, Text(capacity_note(sweep), "dim")]
    parts += [Text(line, "dim") for line in notes_of(sweep)]
    parts += [Text(line) for line in differences_of(sweep)]
    parts += [Text(f"Failed: {line}") for line in failures_of(sweep)]
    return Group(*parts)


def markdown(
    sweep: Sweep,
    command: str,
    pictures: Sequence[tuple[Picture, str]] = (),
    sections: Sequence[str] = (),
) -> str:
    """The page of a sweep.

    command: what makes it again. pictures: with their files' names. sections: further ones, in
    Markdown, that come before the notes.
    """
    index = sweep.index
    blocks = [f"# {_escaped(index['title'] or 'Sweep')}", f"<!-- Written by `{command}`. -->"]
    blocks += [text.strip() for text in (index["question"],) if text.strip()]
    if index["answer"].strip():
        blocks += ["## Answer", index["answer"].strip(), ANSWERED]
    sentences = list(differences_of(sweep))
    if sentences:
        blocks += ["## What the seeds support", "\n".join(f"- {_escaped(s)}" for s in sentences)]
    blocks.append("## What was run")
    blocks.append(_setting(sweep))
    blocks += ["## Results", _table(table_of(sweep)), *notes_of(sweep)]
    rates = capacity_rows(sweep)
    if rates:
        head = [*sweep.axes, RATE]
        lines = [[*map(_escaped, each.labels), each.text] for each in rates]
        blocks += ["## Capacity", _grid(head, len(sweep.axes), lines), capacity_note(sweep)]
    failed = failures_of(sweep)
    if failed:
        blocks += ["## Points that could not be run", "\n".join(f"- {_escaped(s)}" for s in failed)]
    for picture, name in pictures:
        blocks += [f"## {picture.title}", f"![{_escaped(picture.title)}]({name})", picture.caption]
    blocks += sections
    if index["notes"].strip():
        blocks += ["## How to read it", index["notes"].strip()]
    blocks.append(f"Made by `{command}` with kvlab {index['kvlab']}.")
    return "\n\n".join(blocks) + "\n"


def _setting(sweep: Sweep) -> str:
    index = sweep.index
    fixed = [
        f"`{name}` {_value(value)}"
        for name, value in index["setting"].items()
        if value not in ({}, False)
    ]
    varied = [f"`{axis['name']}`: {_escaped(', '.join(axis['labels']))}" for axis in index["axes"]]
    seeds = f"{len(index['seeds'])} seeds ({', '.join(map(str, index['seeds']))})"
    lines = [f"- varied: {'; '.join(varied)}", f"- the same for all: {', '.join(fixed)}"]
    return "\n".join([*lines, f"- {seeds}, {len(index['points'])} runs"])


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_value(each)}" for key, each in value.items()) + "}"
    return _escaped(str(value))


def _table(table: SweepTable) -> str:
    head = [*table.axes, *(f"{m.label} ({m.unit})" if m.unit else m.label for m in table.metrics)]
    lines = [
        [*map(_escaped, row.labels), *(f"**{c.text}**" if c.best else c.text for c in row.cells)]
        for row in table.rows
    ]
    return _grid(head, len(table.axes), lines)


def _grid(head: Sequence[str], names: int, lines: Iterable[Sequence[str]]) -> str:
    """A Markdown table whose first ``names`` columns are words and the others numbers."""
    rule = [*["---"] * names, *["---:"] * (len(head) - names)]
    rows = [map(_escaped, head), rule, *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _escaped(text: str) -> str:
    return html.escape(text, quote=False).replace("|", "\\|")
