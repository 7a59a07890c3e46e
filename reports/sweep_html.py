"""The page of a sweep: one HTML file that needs nothing else, neither network nor server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from reports.capacity_table import RATE, capacity_note, capacity_rows
from reports.html import embedded, environment, from_markdown, raw
from reports.page import flat
from reports.plots import Picture
from reports.sweep import Sweep
from reports.sweep_page import ANSWERED
from reports.sweep_tables import differences_of, failures_of, notes_of, table_of


@dataclass(frozen=True)
class Section:
    """A further section of a sweep's pages. text: Markdown that begins with its heading."""

    name: str
    title: str
    text: str
    picture: Picture | None


def html_of(
    sweep: Sweep,
    command: str,
    pictures: Sequence[Picture] = (),
    sections: Sequence[Section] = (),
) -> str:
    """The HTML text. command: what makes it again; pictures: of `reports.sweep_pictures`."""
    index, rates = sweep.index, capacity_rows(sweep)
    return (
        environment()
        .get_template("sweep.html")
        .render(
            css=raw("report.css"),
            js=raw("report.js"),
            title=index["title"] or "Sweep",
            question=from_markdown(index["question"]),
            answer=from_markdown(index["answer"]),
            answered=ANSWERED.strip("*"),
            sentences=list(differences_of(sweep)),
            table=table_of(sweep),
            lines=notes_of(sweep),
            axes=sweep.axes,
            rates=rates,
            rate_name=RATE,
            rates_note=capacity_note(sweep) if rates else "",
            pictures=[embedded(picture) for picture in pictures],
            sections=[
                {
                    "title": each.title,
                    "text": from_markdown(each.text),
                    "picture": each.picture and embedded(each.picture),
                }
                for each in sections
            ],
            failed=failures_of(sweep),
            notes=from_markdown(index["notes"]),
            varied={axis["name"]: ", ".join(axis["labels"]) for axis in index["axes"]},
            setting=flat({k: v for k, v in index["setting"].items() if v not in ({}, False)}),
            seeds=f"{len(index['seeds'])} seeds ({', '.join(map(str, index['seeds']))})",
            runs=len(index["points"]),
            command=command,
            version=index["kvlab"],
        )
    )
