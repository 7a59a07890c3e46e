"""What llama.cpp logs is read as it was meant: against logs printed here the way it prints them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.recorder.dump import StreamDump
from backends.recorder.events import read_events
from backends.recorder.log import Line

DEBUG, WARN, ERROR = 1, 3, 4

#: None or (ids, position)
CELL = st.none() | st.tuples(
    st.sets(st.integers(0, 9), min_size=1, max_size=3), st.integers(0, 99_999)
)
CELLS = st.lists(CELL, max_size=70).map(lambda held: held + [None] * (256 - len(held)))


def dump_of(cells, head, stream=0, n_swa=0):
    """The lines that `find_slot` logs of one stream."""
    n = max((i + 1 for i, cell in enumerate(cells) if cell), default=0)
    used = sum(cell is not None for cell in cells)
    symbols = positions = ""
    for i, cell in enumerate(cells):
        symbols += "." if cell is None else str(min(cell[0])) if len(cell[0]) == 1 else "M"
        positions += ("." if cell is None else str(cell[1])).ljust(5)
        symbols += " *\n" if i % 256 == 255 else ""
        positions += " *" if i % 256 == 255 else ""
        positions += "\n" if i % 64 == 63 else ""
    lines = [
        f"find_slot: stream[{stream}], n = {n:5d}, used = {used:5d}, head = {head:5d}, "
        f"size = {len(cells):5d}, n_swa = {n_swa:5d}\n",
        f"\n{symbols}\n",
        f"\n{positions}\n",
    ]
    for seq in range(10):
        held = [pos for cell in cells if cell and seq in cell[0] for pos in [cell[1]]]
        if held:
            lines.append(
                f"find_slot: stream[{stream}] min[{seq}] = {min(held):5d}, "
                f"max[{seq}] = {max(held):5d}\n"
            )
    return [Line(DEBUG, text) for text in lines]


def ubatch(tokens, n_seqs_unq, equal_seqs=0, n_seqs=None):
    """The lines of one ubatch that is added to a split: tokens are (ids, position)."""
    n_seqs = len(tokens) if n_seqs is None else n_seqs
    fields = {
        "equal_seqs": equal_seqs,
        "n_tokens": len(tokens),
        "n_seq_tokens": len(tokens) // n_seqs,
        "n_seqs": n_seqs,
        "n_seqs_unq": n_seqs_unq,
    }
    lines = ["ubatch_add: added ubatch to split:"]
    lines += [f"ubatch_print:   {name:12s} = {value}" for name, value in fields.items()]
    lines += ["ubatch_print:   token      = 0x56513b458130", "ubatch_print:   token     = ["]
    for i, (ids, pos) in enumerate(tokens):
        marks = "".join(str(s % 10) if s in ids else "." for s in range(max(ids) + 1))
        lines.append(
            f"ubatch_print:  {i:4d}: id = {5:6d} ({'t5':>16s}), pos = {pos:4d}, "
            f"n_seq_id = {len(ids):2d}, seq_id = [{marks}], output = 0"
        )
    return [Line(DEBUG, line + "\n") for line in [*lines, "ubatch_print:   ]"]]


@given(CELLS, st.integers(0, 256))
def test_every_cell_of_a_dump_is_read(cells, head):
    lines = dump_of(cells, head)
    dump = StreamDump(lines[0].text)
    assert all(dump.takes(line.text) for line in lines[1:])
    assert not dump.takes("update: applying K-shift\n")
    shown = dump.as_map()
    assert shown["head"] == head and shown["size"] == len(cells)
    read = {
        first + i: (symbol, pos + i) for first, symbol, pos, n in shown["runs"] for i in range(n)
    }
    assert read == {
        i: (str(min(cell[0])) if len(cell[0]) == 1 else "M", cell[1])
        for i, cell in enumerate(cells)
        if cell
    }
    for (a, held, pos, n), (b, other, there, _) in zip(
        shown["runs"], shown["runs"][1:], strict=False
    ):
        assert (a + n, held, pos + n) != (b, other, there), "runs are as long as they can be"


def test_a_dump_that_breaks_off_is_an_error():
    first, symbols, positions, *_ = dump_of([({1}, 7)] + [None] * 255, 1)
    dump = StreamDump(first.text)
    dump.takes(symbols.text[:-20])
    dump.takes(positions.text)
    with pytest.raises(ValueError, match="garbled"):
        dump.as_map()


EMPTY = [None] * 256
ONE = [({0}, 0), *[None] * 255]


def test_a_single_stream_is_dumped_for_every_sequence_but_searched_once():
    lines = [
        *ubatch([({0}, 0), ({1}, 0)], n_seqs_unq=2),
        *ubatch([({1}, 1)], n_seqs_unq=1),
        *dump_of(EMPTY, 0),
        *dump_of(EMPTY, 0),
        *dump_of(ONE, 1),
    ]
    events = read_events(lines, unified=True, windowed=False)
    assert [e["ev"] for e in events] == ["ubatch", "ubatch", "slot", "slot"]
    assert [(e["c"], e["ub"], len(e["st"])) for e in events[2:]] == [("kv", 0, 1), ("kv", 1, 1)]
    assert events[3]["st"][0]["mm"] == {"0": [0, 0]}
    assert "mm" not in events[2]["st"][0]


def test_every_stream_of_a_search_is_shown():
    lines = [
        *ubatch([({0}, 0), ({1}, 5)], n_seqs_unq=2, equal_seqs=1, n_seqs=2),
        *dump_of(EMPTY, 0, stream=0),
        *dump_of(ONE, 1, stream=1),
    ]
    (split, search) = read_events(lines, unified=False, windowed=False)
    assert split["runs"] == [[[0], 0, 1], [[1], 5, 1]] and split["n_seq_tokens"] == 1
    assert [state["stream"] for state in search["st"]] == [0, 1]


def test_caches_and_second_splits_are_told_apart():
    first = ubatch([({0}, 0)], n_seqs_unq=1)
    lines = [
        *first,
        *dump_of(EMPTY, 0),
        *dump_of(EMPTY, 0, n_swa=16),
        *first,
        *first,
        *dump_of(EMPTY, 0),
        *dump_of(EMPTY, 0),
    ]
    events = read_events(lines, unified=True, windowed=True)
    searches = [(e["c"], e["ub"]) for e in events if e["ev"] == "slot"]
    assert searches == [("base", 0), ("swa", 0), ("base", 0), ("base", 1)]


def test_a_search_without_a_split_is_one_of_a_restore():
    (search,) = read_events(dump_of(ONE, 1), unified=True, windowed=False)
    assert search["ub"] is None and search["st"][0]["runs"] == [[0, "0", 0, 1]]


def test_other_lines():
    lines = [
        Line(DEBUG, "init: input batch info:\n"),
        Line(DEBUG, "ubatch_print:   n_tokens     = 12\n"),
        Line(DEBUG, "update: copying KV buffer: stream 2 to stream 0\n"),
        Line(DEBUG, "update: applying K-shift\n"),
        *ubatch([({3}, 4), ({3}, 5), ({0, 3}, 6), ({0, 3}, 7)], n_seqs_unq=2),
        Line(DEBUG, "apply_ubatch: purging positions [3, 17] of sequence 4 from KV cache\n"),
        Line(WARN, "decode: failed to find a memory slot for batch of size 22\n"),
        Line(ERROR, "init: sequence 1 positions are not continuous\n"),
    ]
    copy, shift, split, purge, warning, error = read_events(lines, unified=True, windowed=False)
    assert copy == {"ev": "copy", "src": 2, "dst": 0} and shift == {"ev": "kshift"}
    assert split["runs"] == [[[3], 4, 2], [[0, 3], 6, 2]]
    assert purge == {"ev": "purge", "seq": 4, "p": [3, 17]}
    assert warning["lvl"] == "warn" and error["lvl"] == "err"
    assert error["msg"] == "init: sequence 1 positions are not continuous"
