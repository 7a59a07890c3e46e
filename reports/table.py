"""The comparison table: policies by metrics, with the best of each column marked."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reports.metrics import NO_VALUE, Metric, Summary, metric

if TYPE_CHECKING:
    from rich.console import Group
    from rich.text import Text

TABLES = {
    "How users are served": (
        "requests_completed",
        "requests_failed",
        "output_tokens_per_s",
        "goodput_rps",
        "ttft_s.mean",
        "ttft_s.p99",
        "tpot_s.mean",
        "e2e_s.p95",
    ),
    "What the memory is spent on": (
        "kv_utilization_mean",
        "reserved_mean",
        "internal_fragmentation_mean",
        "external_fragmentation_mean",
        "preemptions",
        "recomputed_tokens",
        "prefix_hit_rate",
        "cpu_s",
    ),
}
"""Metrics in the columns of each table. Two tables, since one would not fit a terminal."""

LEGEND = "* best of its column (ties all marked, none where all are equal)"
FAILED = "† some requests failed; latencies are those of the finished ones"
LOSSY = "‡ lossy: it does not compute what the model would; see the verdict"


@dataclass(frozen=True)
class Cell:
    """One value: as shown, as a number to sort by, and whether it is the best of its column."""

    text: str
    value: float | None
    best: bool


@dataclass(frozen=True)
class Table:
    """A titled table: columns of metrics, and a row of cells for each policy."""

    title: str
    columns: tuple[Metric, ...]
    rows: dict[str, tuple[Cell, ...]]


def column_of(shown: Metric, summaries: Mapping[str, Summary]) -> list[Cell]:
    """The cells of one column. Values that look equal are equal: all of them are best."""
    values = [shown.value_of(summary) for summary in summaries.values()]
    texts = [shown.text(value) for value in values]
    known = [value for value in values if value is not None]
    best = NO_VALUE
    if shown.better != "neither" and known and len(set(texts)) > 1:
        best = shown.text(max(known) if shown.better == "higher" else min(known))
    return [
        Cell(text, value, text == best and value is not None)
        for text, value in zip(texts, values, strict=True)
    ]


def tables_of(summaries: Mapping[str, Summary]) -> list[Table]:
    """All tables of a comparison, without columns that no summary knows of."""
    tables = []
    for title, names in TABLES.items():
        columns = tuple(
            metric(name)
            for name in names
            if any(name.partition(".")[0] in summary for summary in summaries.values())
        )
        cells = [column_of(column, summaries) for column in columns]
        rows = dict(zip(summaries, zip(*cells, strict=True), strict=True))
        tables.append(Table(title, columns, rows))
    return tables


def notes_of(summary: Summary) -> dict[str, str]:
    """What has to be known with a policy's row: a mark for its name, and the words of the mark."""
    notes = {"†": FAILED} if summary["requests_failed"] else {}
    return notes | ({"‡": LOSSY} if summary.get("lossy") else {})


def marked(policy: str, summary: Summary) -> str:
    """The policy's name with its marks."""
    return " ".join([policy, *notes_of(summary)])


def legend_of(summaries: Mapping[str, Summary]) -> list[str]:
    """The words of all marks in use, each once."""
    return list(dict.fromkeys(n for s in summaries.values() for n in notes_of(s).values()))


def terminal(summaries: Mapping[str, Summary]) -> Group:
    """The tables for a terminal of 100 columns or more; best values are starred and green."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Group
    from rich.table import Table as RichTable
    from rich.text import Text

    parts: list[RichTable | Text] = []
    for table in tables_of(summaries):
        view = RichTable(
            title=table.title,
            box=SIMPLE_HEAD,
            title_justify="left",
            title_style="bold",
            padding=(0, 0, 0, 1),
            pad_edge=False,
        )
        view.add_column("Policy", overflow="fold", max_width=24)
        for column in table.columns:
            view.add_column(
                Text(f"{column.label} \n{column.unit} "), justify="right", overflow="fold"
            )
        for policy, cells in table.rows.items():
            name = Text(marked(policy, summaries[policy]))
            view.add_row(name, *(_styled(cell) for cell in cells))
        parts.append(view)
    parts.append(Text(LEGEND, "dim"))
    parts += [Text(line, "dim") for line in legend_of(summaries)]
    return Group(*parts)


def _styled(cell: Cell) -> Text:
    from rich.text import Text

    return Text(f"{cell.text}*", "bold green") if cell.best else Text(f"{cell.text} ")


def markdown(summaries: Mapping[str, Summary]) -> str:
    """The tables in Markdown, best values in bold."""
    blocks = []
    for table in tables_of(summaries):
        heads = ["Policy", *(f"{c.label} ({c.unit})" if c.unit else c.label for c in table.columns)]
        lines = [heads, ["---", *("---:" for _ in table.columns)]]
        for policy, cells in table.rows.items():
            name = html.escape(policy).replace("|", "\\|")
            lines.append(
                [
                    marked(name, summaries[policy]),
                    *(f"**{cell.text}**" if cell.best else cell.text for cell in cells),
                ]
            )
        rows = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        blocks.append(f"**{table.title}**\n\n{rows}\n")
    blocks += [f"{line}\n" for line in legend_of(summaries)]
    return "\n".join(blocks)
