"""CSV files with a header, row by row; a row is one line."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from typing import Any

from workloads.traces.lines import Lines, shortened


def cells_of(text: str) -> list[str]:
    """The cells of a line, without quotes and without blanks around them."""
    cells = text.split(",")
    if '"' in text:
        try:
            cells = next(csv.reader([text], skipinitialspace=True))
        except csv.Error:
            return [text]
    return [cell.strip() for cell in cells]


def header_of(lines: Lines, text: str, needed: tuple[str, ...]) -> list[str]:
    """The columns that the first line names; raises `InputError` unless ``needed`` are there."""
    columns = cells_of(text)
    missing = [column for column in needed if column not in columns]
    if missing or len(set(columns)) < len(columns):
        raise lines.error(
            f"expected a header with the columns {', '.join(needed)}, got {shortened(text)}"
        )
    return columns


def row_of(lines: Lines, text: str, columns: list[str]) -> dict[str, Any]:
    """The cells by column: numbers are numbers, others are text; `InputError` for another size."""
    cells = cells_of(text)
    if len(cells) != len(columns):
        raise lines.error(f"expected {len(columns)} cells, got {len(cells)}: {shortened(text)}")
    return dict(zip(columns, map(_value, cells), strict=True))


def table(lines: Lines, needed: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """The rows after the header.

    Raises `InputError` for a header without the ``needed`` columns and for rows of another length.
    """
    texts = iter(lines)
    first = next(texts, None)
    if first is None:
        return
    columns = header_of(lines, first, needed)
    for text in texts:
        yield row_of(lines, text, columns)


def _value(cell: str) -> int | float | str:
    """A number where the cell is one; whole numbers may be written with a fraction of zero."""
    try:
        number = float(cell)
    except ValueError:
        return cell
    return int(number) if number.is_integer() else number
