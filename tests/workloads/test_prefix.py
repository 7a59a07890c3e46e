"""Prefix paths against raw token lists."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workloads.errors import InputError
from workloads.prefix import PrefixTree, branch_at, check_path, common_prefix

Runs = list[list[int]]

tokens = st.lists(st.integers(0, 3), max_size=14)
runs = st.lists(st.tuples(st.integers(0, 3), st.integers(1, 4)).map(list), max_size=6)
salted = st.tuples(st.sampled_from([None, "a", 1]), st.one_of(tokens, runs))


def expanded(sequence: list[int] | Runs) -> list[int]:
    flat: list[int] = []
    for each in sequence:
        flat.extend(range(each[0], each[0] + each[1]) if isinstance(each, list) else [each])
    return flat


def shared_tokens(a: list[int], b: list[int]) -> int:
    n = 0
    while n < min(len(a), len(b)) and a[n] == b[n]:
        n += 1
    return n


@given(st.lists(salted, max_size=12))
def test_paths_share_exactly_what_the_tokens_share(family: list[tuple[object, list[int]]]) -> None:
    tree = PrefixTree()
    paths = [tree.path(sequence, salt) for salt, sequence in family]
    lists = [expanded(sequence) for _, sequence in family]
    identities: dict[tuple[int, int], tuple[object, ...]] = {}
    for (salt, _), path, flat in zip(family, paths, lists, strict=True):
        check_path(path, len(flat))
        for i in range(1, len(flat) + 1):
            meaning = (salt, *flat[:i])
            assert identities.setdefault((branch_at(path, i), i), meaning) == meaning
    assert len(set(identities.values())) == len(identities)
    for a in range(len(family)):
        for b in range(a, len(family)):
            same_salt = family[a][0] == family[b][0]
            expected = shared_tokens(lists[a], lists[b]) if same_salt else 0
            assert common_prefix(paths[a], paths[b]) == expected


@given(st.lists(salted, max_size=8))
def test_asking_again_gives_the_same_identities(family: list[tuple[object, list[int]]]) -> None:
    tree = PrefixTree()
    first = [tree.path(sequence, salt) for salt, sequence in family]
    for before, (salt, sequence) in zip(first, family, strict=True):
        assert tree.path(sequence, salt) == before


def test_a_growing_conversation_stays_on_its_branch() -> None:
    tree = PrefixTree()
    assert tree.path([5, 6, 7]) == ((0, 3),)
    assert tree.path([5, 6, 7, 8, 1]) == ((0, 5),)
    assert tree.path([[5, 4], [1, 3]]) == ((0, 7),)
    assert tree.path([5, 6, 9]) == ((0, 2), (1, 3))
    assert tree.private_branch() == 2
    assert tree.path([5, 6, 9], salt="other") == ((3, 3),)
    assert tree.path([]) == ()


def test_runs_take_no_memory_for_their_tokens() -> None:
    tree = PrefixTree()
    a = tree.path([[0, 10**12], [7, 5]])
    b = tree.path([[0, 10**12], [8, 5]])
    assert common_prefix(a, b) == 10**12


def test_large_token_arrays() -> None:
    rng = np.random.default_rng(0)
    base = rng.integers(0, 128_000, 20_000)
    tree = PrefixTree()
    paths = []
    for cut in range(0, 20_000, 1000):
        changed = base.copy()
        changed[cut] += 1
        paths.append(tree.path(changed))
    for k, path in enumerate(paths[:-1]):
        assert common_prefix(path, paths[-1]) == 1000 * k


def test_common_prefix_by_hand() -> None:
    assert common_prefix((), ((1, 5),)) == 0
    assert common_prefix(((1, 5), (2, 9)), ((1, 5), (2, 7), (3, 8))) == 7
    assert common_prefix(((1, 5), (2, 9)), ((1, 4), (2, 9))) == 4
    assert branch_at(((1, 5), (2, 9)), 5) == 1
    assert branch_at(((1, 5), (2, 9)), 6) == 2
    with pytest.raises(IndexError):
        branch_at(((1, 5), (2, 9)), 10)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (((1, 5), (2, 5)), "expected ends that rise"),
        (((1, 0), (2, 10)), "expected ends that rise"),
        (((1, 5), (2, 9)), "expected a path over 10 tokens"),
        (((1, 5), (2, 7), (1, 10)), "expected every branch once"),
        (((1, 5.0), (2, 10)), "whole numbers"),
        (((True, 10),), "whole numbers"),
        (((-1, 10),), "expected branches from 0"),
        ((), "expected a path over 10 tokens"),
    ],
)
def test_unsound_paths_are_refused(path: tuple[tuple[int, int], ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_path(path, 10)


@pytest.mark.parametrize("bad", [[1.5], ["a"], [[1, 2, 3]], [[1, 0]], [[1, -1]], [1, [2, 3]]])
def test_other_things_than_tokens_are_refused(bad: list[object]) -> None:
    with pytest.raises(InputError):
        PrefixTree().path(bad)
