"""Which branch a block is on, and what follows from it: parts of paths, keys, writers."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sim.paging.holding import Holding
from sim.paging.keys import KeyMaker, branch_of, parts_of
from sim.paging.refusals import Writers
from sim.sequence import Sequence
from workloads.request import PrefixPath, Request

SIZES = st.integers(1, 7)


@st.composite
def paths(draw: st.DrawFn) -> PrefixPath:
    lengths = draw(st.lists(st.integers(1, 20), min_size=1, max_size=6))
    return tuple((7 * i - 3, sum(lengths[: i + 1])) for i in range(len(lengths)))


@given(path=paths(), size=SIZES, data=st.data())
def test_parts_are_the_branches_of_their_entries(
    path: PrefixPath, size: int, data: st.DataObject
) -> None:
    entries = path[-1][1] // size
    first = data.draw(st.integers(0, entries))
    stop = data.draw(st.integers(0, entries))
    parts = parts_of(path, size, first, stop)
    listed = [(entry, branch) for branch, begin, end in parts for entry in range(begin, end)]
    assert listed == [(entry, branch_of(path, size, entry)) for entry in range(first, stop)]
    assert all(begin < end for _, begin, end in parts)


@given(path=paths(), size=SIZES, data=st.data())
def test_keys_are_the_same_one_by_one(path: PrefixPath, size: int, data: st.DataObject) -> None:
    maker, entries = KeyMaker(), path[-1][1] // size
    for _ in range(3):
        first = data.draw(st.integers(0, entries))
        stop = data.draw(st.integers(first, entries))
        keys = maker.keys(path, size, first, stop)
        assert keys == [KeyMaker().key(path, size, entry) for entry in range(first, stop)]


def sequence(path: PrefixPath, prompt: int) -> tuple[Sequence, Holding]:
    return Sequence(0, Request(0, 0.0, prompt, path[-1][1] - prompt, path)), Holding([], path, 0)


def test_who_decodes_writes_on_the_branches_behind_its_prompt() -> None:
    writers = Writers()
    first = sequence(((1, 8), (2, 20), (-4, 30)), prompt=12)
    second = sequence(((1, 8), (3, 30)), prompt=8)
    for seq, holding in (first, second):
        writers.came(seq, holding)
    assert writers.are_on(((2, 40),)) and writers.are_on(((5, 4), (3, 9)))
    assert not writers.are_on(((-4, 30),))
    assert writers.are_on(((1, 9),))  # its last block may be full with the first token generated
    writers.left(second[1])
    assert not writers.are_on(((1, 9), (3, 30)))
    writers.left(first[1])
    assert not writers.are_on(((2, 40),))
