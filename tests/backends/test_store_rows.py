"""Rows of a store: what is written is read, wherever it was moved in between."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.arrays import Backend
from backends.choice import backend_of
from backends.formats import FORMATS, format_of
from backends.rope import angles, rotated, turns_of
from backends.runs import runs_of
from backends.shape import RowShape, shape_of
from backends.store import KVStore
from sim.dtypes import kv_type
from sim.model_files.lookup import model_of
from workloads.errors import InputError

ROW = RowShape(2, 64, 32)
CELLS = 20


def store(kind="f32", transposed=False, layers=2) -> KVStore:
    return KVStore(Backend(), CELLS, ROW, kind, kind, layers=layers, v_transposed=transposed)


def rows(n: int, seed: int = 0):
    rng = np.random.default_rng(seed)
    return (
        rng.normal(size=(n, 2, 64)).astype(np.float32),
        rng.normal(size=(n, 2, 32)).astype(np.float32),
    )


@pytest.mark.parametrize("transposed", [False, True])
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_moves_are_those_of_a_dictionary(transposed, data):
    """Any mix of writes, copies and swaps leaves in every cell what a dictionary says."""
    kept = store(transposed=transposed)
    expected: dict[int, tuple] = {}
    cell_lists = st.lists(st.integers(0, CELLS - 1), min_size=1, max_size=8, unique=True)
    host = None
    for step in range(data.draw(st.integers(1, 12))):
        what = data.draw(st.sampled_from(["write", "copy", "out", "in"]))
        cells = np.array(data.draw(cell_lists))
        if what == "write":
            k, v = rows(len(cells), step)
            for layer in range(2):
                kept.write(layer, cells, k + layer, v + layer)
            expected.update({int(c): (k[i], v[i]) for i, c in enumerate(cells)})
        elif what == "copy":
            dst = np.array(data.draw(st.permutations(range(CELLS))))[: len(cells)]
            kept.copy(cells, dst)
            held = [expected.get(int(c)) for c in cells]
            for target, row in zip(dst.tolist(), held, strict=True):
                expected[target] = (
                    row if row is not None else (0 * rows(1)[0][0], 0 * rows(1)[1][0])
                )
                if row is None:
                    del expected[target]
        elif what == "out":
            host = (cells, kept.swap_out(cells), [expected.get(int(c)) for c in cells])
            assert host[1].nbytes == 2 * len(cells) * kept.row_bytes
        elif host is not None:
            source, saved, held = host
            which = np.arange(len(source))[::-1]
            target = np.array(data.draw(st.permutations(range(CELLS))))[: len(source)]
            kept.swap_in(saved, target, which)
            for cell, place in zip(target.tolist(), which.tolist(), strict=True):
                if held[place] is None:
                    expected.pop(cell, None)
                else:
                    expected[cell] = held[place]
    for layer in range(2):
        k, v = kept.read(layer, slice(0, CELLS))
        for cell in range(CELLS):
            row = expected.get(cell)
            assert (k[cell] == (row[0] + layer if row else 0)).all()
            assert (v[cell] == (row[1] + layer if row else 0)).all()


@pytest.mark.parametrize("kind", FORMATS)
def test_a_cell_takes_what_the_simulator_says(kind):
    kept = store(kind)
    assert kept.row_bytes == kv_type(kind).bytes_of(2 * 64) + kv_type(kind).bytes_of(2 * 32)


def test_reading_cells_and_slices_agree():
    kept = store("q8_0")
    k, v = rows(CELLS)
    kept.write(0, np.arange(CELLS), k, v)
    for one, other in zip(kept.read(0, np.arange(3, 9)), kept.read(0, slice(3, 9)), strict=True):
        assert (one == other).all()


@pytest.mark.parametrize("kind", FORMATS)
def test_a_shift_moves_a_key_to_its_new_position(kind):
    """Written for position p and shifted by d, a key is the one written for p + d, but rounded."""
    kept, plain = store(kind), rows(3, seed=4)[0]
    positions, deltas = np.array([100, 7, 2000]), np.array([-40, 0, 35])
    turned = rotated(np, plain, turns_of(positions, 64))
    kept.write(0, np.array([5, 1, 9]), turned, rows(3)[1])
    before = kept.v.copy()
    kept.shift(np.array([5, 1, 9]), deltas)
    expected = rotated(np, plain.astype(np.float64), _turns64(positions + deltas))
    got = kept.read(0, np.array([5, 1, 9]))[0]
    bound = 2 * format_of(kind).error_bound(np, np.abs(turned)).max() * np.sqrt(2) + 1e-3
    assert np.abs(got - expected).max() < bound
    assert (kept.v == before).all()


def _turns64(positions):
    turn = angles(positions, 64)
    return np.stack([np.cos(turn), np.sin(turn)])


def test_scores_of_turned_rows_depend_on_the_distance_only():
    q, k = rows(1, seed=1)[0].astype(np.float64), rows(1, seed=2)[0].astype(np.float64)

    def score(query, key):
        at = (rotated(np, x, _turns64(np.array([p]))) for x, p in ((q, query), (k, key)))
        return np.einsum("nhd,nhd->h", *at)

    assert np.allclose(score(50, 20), score(1050, 1020))
    assert not np.allclose(score(50, 20), score(50, 21))


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=30))
def test_runs_spell_out_their_pairs(pairs):
    src, dst = (np.array([pair[i] for pair in pairs], dtype=np.int64) for i in (0, 1))
    runs = runs_of(src, dst)
    spelled = [(s + i, d + i) for s, d, n in runs.tolist() for i in range(n)]
    assert spelled == pairs
    for (s, d, n), (s2, d2, _) in zip(runs.tolist(), runs[1:].tolist(), strict=False):
        assert (s + n, d + n) != (s2, d2)


def test_what_cannot_be_stored_is_refused_in_one_line():
    with pytest.raises(InputError, match="blocks cannot be stored transposed"):
        store("q8_0", transposed=True)
    with pytest.raises(InputError, match=r"K of type 'q4_0' needs heads of a multiple of 32"):
        KVStore(Backend(), 4, RowShape(1, 40, 40), "q4_0", "f16")
    deepseek = model_of("deepseek-v3")
    with pytest.raises(InputError, match=r"deepseek-v3: a latent \(MLA\) cache has no K and V"):
        shape_of(deepseek.groups()[0], deepseek)
    with pytest.raises(InputError, match="unknown backend 'numpi'; did you mean 'numpy'"):
        backend_of("numpi")


def test_cupy_is_refused_where_it_or_a_gpu_is_missing():
    try:
        import cupy

        if cupy.cuda.runtime.getDeviceCount():
            pytest.skip("there is a GPU")
    except Exception as missing:  # an ImportError, or whatever CuPy says of the driver
        del missing
    with pytest.raises(InputError, match=r"^backend 'cupy': [^\n]+$"):
        backend_of("cupy")
