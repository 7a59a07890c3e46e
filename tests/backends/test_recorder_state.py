"""States and parameters as llama.cpp lays them out, written here byte by byte and read back."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.recorder.blob import cells_in, stream_bytes_of
from backends.recorder.crafted import unrestorable, with_cells
from backends.recorder.observe import all_masked
from backends.recorder.params import find_layout
from sim.llamacpp.window import UNBOUNDED, Window
from workloads.errors import InputError

CELLS = st.lists(
    st.tuples(st.integers(-1, 99), st.lists(st.integers(0, 8), max_size=3, unique=True)),
    max_size=12,
)
#: layers, K row, V row, transposed V, bytes more per stream
ROWS = st.tuples(st.integers(0, 3), st.sampled_from((34, 64)), st.booleans(), st.integers(0, 4))


def u32(*values):
    return struct.pack(f"<{len(values)}i", *values)


def cell_bytes(cells):
    return b"".join(u32(pos, len(ids), *ids) for pos, ids in cells)


def attention(streams, rows):
    """One attention cache with ``streams`` of (position, ids)."""
    layers, row, transposed, more = rows
    data = u32(len(streams))
    for cells in streams:
        data += u32(len(cells))
        if not cells:
            continue
        data += cell_bytes(cells) + u32(transposed, layers) + b"\x07" * (4 * more)
        data += (u32(1) + struct.pack("<Q", row) + bytes(row * len(cells))) * layers
        if transposed:
            data += (u32(1, 2, row) + bytes(2 * row * len(cells))) * layers
        else:
            data += (u32(8) + struct.pack("<Q", row) + bytes(row * len(cells))) * layers
    return data


def recurrent(cells, layers):
    row = u32(0) + struct.pack("<Q", 8) + bytes(8 * len(cells))
    return u32(len(cells)) + cell_bytes(cells) + u32(0, layers) + row * (2 * layers)


def expanded(streams):
    return [[(pos + i, seqs) for seqs, pos, n in runs for i in range(n)] for runs in streams]


@given(st.lists(CELLS, min_size=1, max_size=3), CELLS, ROWS, st.integers(0, 2))
def test_cells_are_read_whatever_the_rows(streams, states, rows, state_layers):
    data = b"llama" + attention(streams, rows) + recurrent(states, state_layers)
    cells = cells_in(data, 5, ["kv", "rs"], state_layers, 4 * rows[3])
    assert expanded(cells["kv"]) == streams
    assert cells["rs"] == [[pos, ids] for pos, ids in states]


@given(ROWS.filter(lambda rows: rows[0] > 0))
def test_bytes_more_per_stream_are_found_out(rows):
    data = attention([[(0, [0])], [], [(3, [2])]], rows)
    assert stream_bytes_of(data, 0, ["kv"], 0) == 4 * rows[3]


@pytest.mark.parametrize("wrong", [-1, 1, 700])
def test_a_state_of_another_layout_is_an_error(wrong):
    data = attention([[(0, [0])] * 5], (2, 64, False, 2))
    with pytest.raises(ValueError, match=r"left over|breaks off"):
        cells_in(data[:wrong] if wrong < 0 else data + bytes(wrong), 0, ["kv"], 0, 8)


def test_a_state_of_our_making_has_the_cells_asked_for():
    one = u32(5) + b"llama" + attention([[(0, [0])]], (2, 64, False, 2))
    data = with_cells(one, 8, np.array([4, 5, 0]), np.array([1, 1, 2]))
    cells = cells_in(data, 9, ["kv"], 0, 8)
    assert cells == {"kv": [[[[1], 4, 2], [[2], 0, 1]]]}


def test_an_unrestorable_state_ends_before_its_rows():
    data = unrestorable(b"HEAD1234", 1, 3)
    assert data == b"HEAD1234" + u32(1, 0) + u32(1, 3) + cell_bytes([(i, [0]) for i in range(3)])


@pytest.mark.parametrize(
    ("stream", "window", "expected"),
    [
        ([[[0], 3, 5]], UNBOUNDED, False),
        ([[[0], 0, 40]], Window("standard", 16), False),
        ([[[0], 0, 8]], Window("chunked", 8), True),
        ([[[0], 0, 7]], Window("chunked", 8), False),
        ([[[0], 0, 8], [[1], 2, 3]], Window("chunked", 8), False),
        ([[[0], 0, 8], [[0, 1], 2, 1]], Window("chunked", 8), False),
        ([[[], 0, 7]], Window("chunked", 8), False),
        ([[[], 0, 8]], Window("chunked", 8), True),
    ],
)
def test_when_every_cell_can_be_taken(stream, window, expected):
    assert all_masked(stream, window) is expected


def defaults(before_types=b"", before_flags=b"", enums=4):
    """Default context parameters with fields that this version of llama.cpp may have."""
    sizes = struct.pack("<5I", 512, 2048, 512, 1, 0)
    floats = struct.pack("<6fI", 0, 0, -1, -1, -1, -1, 0) + struct.pack("<f", -1)
    types = struct.pack("<QQii", 0, 0, 1, 1)
    flags = bytes([0, 1, 1, 1, 1, 0, 0, 0])
    data = sizes + u32(0, 4, 4, 0) + u32(-1) * enums + before_types + floats + types
    return data + bytes(16) + before_flags + flags + bytes(100)


def test_fields_are_found_wherever_they_are():
    plain, longer = find_layout(defaults()), find_layout(defaults(bytes(4), bytes(8)))
    assert longer.flash_attn == plain.flash_attn == 5 * 4 + 4 * 4 + 3 * 4
    assert longer.type_k == plain.type_k + 4 and longer.type_v == longer.type_k + 4
    assert longer.swa_full == plain.swa_full + 12 and longer.kv_unified == longer.swa_full + 1
    assert defaults()[plain.swa_full : plain.kv_unified + 1] == bytes([1, 0])


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (bytes(200), "at the start"),
        (defaults(enums=3), "the enums"),
        (defaults()[:80] + bytes(100), "type_k and type_v"),
        (defaults()[:110] + bytes(100), "the flags"),
    ],
)
def test_unknown_parameters_are_refused(data, expected):
    with pytest.raises(InputError, match=expected):
        find_layout(data)
