"""A verdict of the gate for people and machines: terminal, Markdown, JUnit XML."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from reports.gate import Change, Verdict, shown
from reports.timing import Timing

if TYPE_CHECKING:
    from rich.console import Group

HEADS = ("point", "metric", "baseline", "now", "change", "seeds", "")


def rows_of(changes: tuple[Change, ...]) -> list[tuple[str, ...]]:
    """The cells of every change under `HEADS`."""
    return [
        (change.point, *shown(change), f"{change.changed}/{change.seeds}", change.kind)
        for change in changes
    ]


def notes_of(verdict: Verdict) -> list[str]:
    """What else is to be said."""
    then, now = verdict.versions
    return [] if then == now else [f"The baseline was saved by kvlab {then}; this is {now}."]


def terminal(verdict: Verdict) -> Group:
    """The changes as a table, below them what got worse in one line."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD)
    for place, head in enumerate(HEADS):
        table.add_column(head, justify="right" if 2 <= place <= 5 else "left", overflow="fold")
    colors = {"worse": "bold red", "better": "green", "changed": "yellow"}
    for row in rows_of(verdict.changes):
        table.add_row(*map(Text, row[:-1]), Text(row[-1], colors[row[-1]]))
    lines = [Text(line) for line in (*notes_of(verdict), verdict.headline)]
    return Group(*([] if verdict.passes else [table]), *lines)


def text(verdict: Verdict) -> str:
    """The same without a terminal, one change a line."""
    lines = [
        f"{point}: {name}: {before} -> {after} {by} ({seeds} seeds, {kind})"
        for point, name, before, after, by, seeds, kind in rows_of(verdict.changes)
    ]
    return "\n".join([*notes_of(verdict), verdict.headline, *lines])


def markdown(verdict: Verdict) -> str:
    """For the summary of a pull request."""
    mark = "✅" if verdict.passes else "❌" if verdict.is_worse else "⚠️"
    blocks = [f"### {mark} {_escaped(verdict.headline)}"]
    if not verdict.passes:
        lines: list[tuple[str, ...]] = [
            HEADS,
            ("---", "---", "---:", "---:", "---:", "---:", "---"),
        ]
        lines += [
            tuple(f"**{_escaped(c)}**" if c == "worse" else _escaped(c) for c in row)
            for row in rows_of(verdict.changes)
        ]
        blocks.append("\n".join(f"| {' | '.join(line)} |" for line in lines))
    return "\n\n".join([*blocks, *notes_of(verdict)]) + "\n"


def junit(verdict: Verdict | None, timings: Sequence[Timing] = ()) -> str:
    """One test case a point, whose failure lists what changed; and one a benchmark."""
    root = Element("testsuites")
    if verdict is not None:
        failures: dict[str, list[Change]] = {}
        for change in verdict.changes:
            failures.setdefault(change.point, []).append(change)
        _suite(
            root, verdict.title, {point: _failure(failures.get(point)) for point in verdict.points}
        )
    if timings:
        cases = {x.name: (x.line, x.line) if x.kind == "slower" else None for x in timings}
        _suite(root, "Processor time", cases)
    indent(root)
    return tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _failure(changes: Sequence[Change] | None) -> tuple[str, str] | None:
    """Message and text of a point's failure; None where nothing changed."""
    if not changes:
        return None
    names = ", ".join(f"{change.metric} {change.kind}" for change in changes)
    lines = [
        f"{name}: {before} -> {after} {by} ({seeds} seeds, {kind})"
        for _, name, before, after, by, seeds, kind in rows_of(tuple(changes))
    ]
    return names, "\n".join(lines)


def _suite(root: Element, title: str, cases: Mapping[str, tuple[str, str] | None]) -> None:
    failed = sum(failure is not None for failure in cases.values())
    counts = {"tests": str(len(cases)), "failures": str(failed), "errors": "0"}
    suite = SubElement(root, "testsuite", {"name": title, **counts})
    for name, failure in cases.items():
        case = SubElement(suite, "testcase", classname="kvlab.check", name=name)
        if failure is not None:
            message, text = failure
            SubElement(case, "failure", message=message, type="regression").text = text


def _escaped(text: str) -> str:
    return html.escape(text, quote=False).replace("|", "\\|").replace("\n", " ")
