"""A reproduction as a person reads it (terminal, Markdown) and as a program does (JSON)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

from kvlab.reproduce.findings import Number, Reproduction

if TYPE_CHECKING:
    from rich.console import Console

PAGE_HEAD = """# Published results, reproduced

`kvlab reproduce NAME` prints a published figure, kvlab's own, and the difference, and says what
the publication leaves open. The exit status is 1 where the stated target is missed; `--json` prints
the same for programs, `--out DIR` writes a picture, `--list` names the experiments and the data
that they read. Where kvlab has to assume something, the assumption is named, and other choices are
swept.

This page is what `kvlab reproduce all --data DIR --markdown` prints, where DIR holds Mooncake's
conversation trace. Figures marked "–" were not published as numbers, or are kvlab's alone.
"""
COLUMNS = ("figure", "published", "kvlab", "difference", "target", "met")


def rows_of(found: Reproduction) -> Iterator[tuple[str, ...]]:
    """One row a number under `COLUMNS`."""
    for number in found.numbers:
        has_target = number.within is not None and number.paper is not None
        yield (
            number.what,
            _published(number),
            f"{number.kvlab:,.{number.digits}f}{_unit(number)}",
            "" if number.difference is None else f"{number.difference:+,.{number.digits}f}",
            f"within {number.within:g}" if has_target else "",
            _yes(number.meets) if has_target else "",
        )


def _published(number: Number) -> str:
    if number.paper is None:
        return "–"
    values = number.paper if isinstance(number.paper, tuple) else (number.paper,)
    return " to ".join(f"{value:,.{number.digits}f}" for value in values) + _unit(number)


def _unit(number: Number) -> str:
    return f" {number.unit}" if number.unit else ""


def _yes(meets: bool) -> str:
    return "yes" if meets else "NO"


def verdict_of(found: Reproduction) -> str:
    """One line: whether the target is met, and what misses it."""
    if not found.missed:
        return "The target is met."
    return f"The target is missed: {'; '.join(found.missed)}."


def plain_of(name: str, module: ModuleType, found: Reproduction) -> dict[str, Any]:
    """What ``--json`` prints."""
    return {
        "name": name,
        "title": module.TITLE,
        "source": module.SOURCE,
        "target": module.TARGET,
        "met": not found.missed,
        "missed": list(found.missed),
        "numbers": [
            {
                "what": number.what,
                "paper": number.paper,
                "kvlab": number.kvlab,
                "difference": number.difference,
                "unit": number.unit,
                "within": number.within,
                "met": number.meets,
            }
            for number in found.numbers
        ],
        "claims": [
            {"what": claim.what, "seen": claim.seen, "met": claim.meets} for claim in found.claims
        ],
        "left_open": list(found.leaves_open),
        "sweeps": [
            {"assumption": sweep.assumption, "columns": sweep.columns, "rows": sweep.rows}
            for sweep in found.sweeps
        ],
        "notes": list(found.notes),
        "curves": dict(found.curves),
    }


def print_to(console: Console, name: str, module: ModuleType, found: Reproduction) -> None:
    """The reproduction on a terminal."""
    from rich.text import Text

    def line(text: str, style: str = "") -> None:
        console.print(Text(text, style), soft_wrap=not console.is_terminal)

    line(f"{name}: {module.TITLE}", "bold")
    line(f"Published by: {module.SOURCE}")
    if found.numbers:
        console.print(_table(COLUMNS, list(rows_of(found)), numbers=(1, 2, 3)))
    for claim in found.claims:
        line(f"{_yes(claim.meets):3}  {claim.what}: {claim.seen}")
    for sweep in found.sweeps:
        line("")
        line(f"Assumption: {sweep.assumption}")
        console.print(
            _table(sweep.columns, sweep.rows, numbers=tuple(range(1, len(sweep.columns))))
        )
    for head, texts in (("The publication leaves open", found.leaves_open), ("", found.notes)):
        if texts and head:
            line(f"{head}:")
        for text in texts:
            line(f"  - {text}" if head else text)
    line(f"Target: {module.TARGET}")
    line(verdict_of(found), "bold red" if found.missed else "bold green")


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]], numbers: tuple[int, ...]) -> Any:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index in numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell, "bold red" if cell == "NO" else "") for cell in row))
    return table


def markdown_of(name: str, module: ModuleType, found: Reproduction) -> str:
    """The reproduction as a section of a page."""
    parts = [f"## `{name}`", f"{module.TITLE}. {module.SOURCE}.", f"Target: {module.TARGET}"]
    if found.numbers:
        parts.append(_markdown_table(COLUMNS, list(rows_of(found)), numbers=(1, 2, 3)))
    if found.claims:
        rows = [(claim.what, claim.seen, _yes(claim.meets)) for claim in found.claims]
        parts.append(_markdown_table(("published in words", "kvlab", "holds"), rows))
    for sweep in found.sweeps:
        parts.append(f"Assumption: {sweep.assumption}")
        numbers = tuple(range(1, len(sweep.columns)))
        parts.append(_markdown_table(sweep.columns, sweep.rows, numbers))
    if found.leaves_open:
        listed = "\n".join(f"- {text}" for text in found.leaves_open)
        parts.append(f"The publication leaves open:\n\n{listed}")
    parts += [*found.notes, f"**{verdict_of(found)}**"]
    return "\n\n".join(parts) + "\n"


def _markdown_table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], numbers: tuple[int, ...] = ()
) -> str:
    rule = ["---:" if index in numbers else "---" for index in range(len(columns))]
    return "\n".join(f"| {' | '.join(line)} |" for line in (columns, rule, *rows))
