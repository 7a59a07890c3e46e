"""Centroids on real arrays: nothing lost where there are enough, masses counted, clusters found."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.choice import backend_of
from backends.summary import Atoms, attend_atoms, clusters, joined, kept, summarized

BACKEND = backend_of("numpy")


def rows(seed, tokens=24, heads=2, size=8):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(tokens, heads, size)), rng.normal(size=(tokens, heads, size))


def test_as_many_atoms_as_tokens_lose_nothing():
    k, v = rows(0)
    q = np.random.default_rng(1).normal(size=(5, 4, 8))
    exact = attend_atoms(BACKEND, q, kept(BACKEND, k, v), 8**-0.5)
    again = attend_atoms(BACKEND, q, summarized(BACKEND, kept(BACKEND, k, v), 24), 8**-0.5)
    assert np.allclose(exact, again, atol=1e-12)


def test_copies_of_a_token_are_one_atom_with_their_mass():
    """Three distinct rows, repeated 5, 2 and 1 times: three centroids give the exact output."""
    k, v = rows(2, tokens=3)
    times = [5, 2, 1]
    many = kept(BACKEND, np.repeat(k, times, axis=0), np.repeat(v, times, axis=0))
    few = summarized(BACKEND, many, 3)
    assert sorted(few.mass[:, 0].tolist()) == [1, 2, 5]
    q = np.random.default_rng(3).normal(size=(6, 2, 8))
    both = [attend_atoms(BACKEND, q, atoms, 0.5) for atoms in (many, few)]
    assert np.allclose(*both, atol=1e-12)


def test_masses_matter():
    k, v = rows(4, tokens=2)
    q = np.random.default_rng(5).normal(size=(1, 2, 8))
    heavy = Atoms(k, v, np.array([[9.0, 9.0], [1.0, 1.0]]))
    written = kept(BACKEND, np.repeat(k, [9, 1], axis=0), np.repeat(v, [9, 1], axis=0))
    out = attend_atoms(BACKEND, q, heavy, 1.0)
    assert np.allclose(out, attend_atoms(BACKEND, q, written, 1.0))
    assert not np.allclose(out, attend_atoms(BACKEND, q, kept(BACKEND, k, v), 1.0))


@given(st.integers(0, 50), st.integers(1, 24))
def test_mass_and_means_are_kept_and_no_cluster_is_empty(seed, count):
    k, v = rows(seed)
    atoms = summarized(BACKEND, kept(BACKEND, k, v), count, seed)
    assert atoms.k.shape[0] == count and (atoms.mass >= 1).all()
    assert np.allclose(atoms.mass.sum(axis=0), 24)
    for mine, theirs in ((atoms.k, k), (atoms.v, v)):
        assert np.allclose((mine * atoms.mass[:, :, None]).sum(axis=0), theirs.sum(axis=0))


@given(st.integers(0, 30), st.integers(1, 6))
def test_equal_points_are_no_trouble(seed, count):
    points = np.repeat(np.random.default_rng(seed).normal(size=(2, 3)), 4, axis=0)
    owner = clusters(np, points, np.ones(8), count, seed)
    assert sorted(set(owner.tolist())) == list(range(count))


def test_well_separated_clusters_are_found():
    rng = np.random.default_rng(6)
    centres = 20 * rng.normal(size=(5, 4))
    label = np.repeat(np.arange(5), 10)
    owner = clusters(np, centres[label] + rng.normal(size=(50, 4)), np.ones(50), 5)
    assert all(len(set(owner[label == each].tolist())) == 1 for each in range(5))


def test_a_summary_of_a_summary_weighs_what_it_stands_for():
    k, v = rows(7)
    first = summarized(BACKEND, kept(BACKEND, k[:16], v[:16]), 4)
    both = summarized(BACKEND, joined(BACKEND, first, kept(BACKEND, k[16:], v[16:])), 5)
    assert np.allclose((both.v * both.mass[:, :, None]).sum(axis=0), v.sum(axis=0))
    assert both.mass.sum() == pytest.approx(48)
