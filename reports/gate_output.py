"""A verdict of the gate for people and machines: terminal, Markdown, JUnit XML."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from reports.gate import Change, Verdict, shown

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


def junit(verdict: Verdict) -> str:
    """One test case a point; its failure lists what changed."""
    suite = Element("testsuite", name=verdict.title, tests=str(len(verdict.points)))
    failed = 0
    for point in verdict.points:
        case = SubElement(suite, "testcase", classname="kvlab.check", name=point)
        changes = tuple(change for change in verdict.changes if change.point == point)
        if changes:
            failed += 1
            names = ", ".join(f"{change.metric} {change.kind}" for change in changes)
            failure = SubElement(case, "failure", message=names, type="regression")
            failure.text = "\n".join(
                f"{name}: {before} -> {after} {by} ({seeds} seeds, {kind})"
                for _, name, before, after, by, seeds, kind in rows_of(changes)
            )
    suite.set("failures", str(failed))
    suite.set("errors", "0")
    root = Element("testsuites")
    root.append(suite)
    indent(root)
    return tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _escaped(text: str) -> str:
    return html.escape(text, quote=False).replace("|", "\\|").replace("\n", " ")
