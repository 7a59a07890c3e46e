"""Rows of requests: what goes in comes out, packed or not."""

import numpy as np
import pytest

from sim.request_rows import FLOATS, INTEGERS, NAMES, PACKED, WORDS, RequestRows


def row_of(number: int) -> tuple:
    floats = [number + place / 8 for place in range(len(FLOATS))]
    integers = [number * 1000 + place for place in range(len(INTEGERS))]
    return (*floats, *integers, *(f"{word} {number % 3}" for word in WORDS))


@pytest.mark.parametrize("count", [0, 1, PACKED - 1, PACKED, PACKED + 1, 2 * PACKED + 5])
def test_rows_come_out_as_they_went_in(count: int) -> None:
    rows, listed = RequestRows(), [row_of(number) for number in range(count)]
    for row in listed:
        rows.append(row)
    assert len(rows) == count
    for line in {0, 1, PACKED - 1, PACKED, count - 1} & set(range(count)):
        assert tuple(rows[line].values()) == listed[line]
        assert [type(value) for value in rows[line].values()] == [type(v) for v in listed[line]]
    for place, name in enumerate(NAMES):
        column = rows.column(name)
        assert list(column) == [row[place] for row in listed]
        if name not in WORDS:
            assert column.dtype == (np.float64 if name in FLOATS else np.int64)
