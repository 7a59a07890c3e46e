"""CSV files with a header, row by row: plain cells, no quotes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from workloads.traces.lines import Lines, shortened


def table(lines: Lines, needed: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """The rows after the header, cells by column; numbers are numbers, other cells are text.

    Raises `InputError` for a header without the ``needed`` columns and for rows of another length.
    """
    texts = iter(lines)
    first = next(texts, None)
    if first is None:
        return
    columns = [column.strip() for column in first.split(",")]
    missing = [column for column in needed if column not in columns]
    if missing or len(set(columns)) < len(columns):
        raise lines.error(
            f"expected a header with the columns {', '.join(needed)}, got {shortened(first)}"
        )
    for text in texts:
        cells = text.split(",")
        if len(cells) != len(columns):
            raise lines.error(f"expected {len(columns)} cells, got {len(cells)}: {shortened(text)}")
        yield dict(zip(columns, map(_value, cells), strict=True))


def _value(cell: str) -> int | float | str:
    """A number where the cell is one; whole numbers may be written with a fraction of zero."""
    try:
        number = float(cell)
    except ValueError:
        return cell.strip()
    return int(number) if number.is_integer() else number
