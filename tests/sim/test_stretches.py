"""Stretches of steps: what goes in comes out, packed or not."""

import pytest

from sim.stretches import PACKED, StretchTable


def row_of(number: int) -> list[list[int]]:
    return [[number + 10 * i, number + 10 * i + 5] for i in range(number % 4)]


@pytest.mark.parametrize("count", [0, 1, PACKED - 1, PACKED, PACKED + 1, 2 * PACKED + 3])
def test_rows_come_out_as_they_went_in(count: int) -> None:
    table = StretchTable()
    for number in range(count):
        table.append(row_of(number))
    assert len(table) == count
    assert list(table) == [row_of(number) for number in range(count)]
    if count:
        assert table[-1] == row_of(count - 1)
        table.append(row_of(7))
        assert table[count] == row_of(7)
    with pytest.raises(IndexError):
        table[count + 1]
