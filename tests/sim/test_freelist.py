import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.errors import IntegrityError
from sim.policies.freelist import BuddyList, FitList

CAPACITY = 64
actions = st.lists(st.tuples(st.booleans(), st.integers(1, 20), st.integers(0, 10)), max_size=60)
lists = st.sampled_from(
    [lambda: FitList(CAPACITY), lambda: FitList(CAPACITY, best=True), lambda: BuddyList(CAPACITY)]
)


def free_runs(free: list[bool]) -> list[tuple[int, int]]:
    runs, start = [], None
    for address, is_free in enumerate([*free, False]):
        if is_free and start is None:
            start = address
        elif not is_free and start is not None:
            runs.append((start, address - start))
            start = None
    return runs


@settings(max_examples=200)
@given(lists, actions)
def test_cells_are_neither_lost_nor_given_twice(make, actions):
    space, free, held = make(), [True] * CAPACITY, []
    for take, n, which in actions:
        if take:
            start = space.take(n)
            if start is None:
                continue
            cells = range(start, start + space.size_of(n))
            assert all(free[cell] for cell in cells)
            for cell in cells:
                free[cell] = False
            held.append((start, n))
        elif held:
            start, n = held.pop(which % len(held))
            space.give(start, n)
            for cell in range(start, start + space.size_of(n)):
                free[cell] = True
        assert space.free == sum(free)
        if isinstance(space, FitList):
            assert space.largest == max((size for _, size in free_runs(free)), default=0)


@given(actions, st.integers(1, 20))
def test_first_and_best_fit_choose_by_their_names(actions, n):
    first, best = FitList(CAPACITY), FitList(CAPACITY, best=True)
    for space in (first, best):
        free, held = [True] * CAPACITY, []
        for take, size, which in actions:
            if take and (start := space.take(size)) is not None:
                held.append((start, size))
                free[start : start + size] = [False] * size
            elif held:
                start, size = held.pop(which % len(held))
                space.give(start, size)
                free[start : start + size] = [True] * size
        fitting = [(start, size) for start, size in free_runs(free) if size >= n]
        by = (lambda run: run[0]) if space is first else (lambda run: (run[1], run[0]))
        expected = min(fitting, key=by)[0] if fitting else None
        assert space.take(n) == expected


def test_buddies_merge_back_to_the_whole():
    space = BuddyList(64)
    starts = [space.take(8) for _ in range(8)]
    assert starts == [0, 8, 16, 24, 32, 40, 48, 56]
    assert space.take(1) is None
    for start in (8, 0, 24, 16, 56, 40, 48, 32):
        space.give(start, 8)
    assert space.largest == 64


def test_buddies_of_a_capacity_that_is_no_power_of_two():
    space = BuddyList(44)
    assert space.take(32) == 0
    assert space.take(8) == 32
    assert space.take(4) == 40
    assert space.free == 0


@pytest.mark.parametrize("space", [FitList(16), BuddyList(16)])
def test_giving_back_twice_is_noticed(space):
    start = space.take(16)
    space.give(start, 16)
    with pytest.raises(IntegrityError, match="twice"):
        space.give(start, 16)


def test_extending_takes_just_what_lies_behind():
    space = FitList(16)
    space.take(4)
    assert space.extend(4, 2)
    assert space.take(1) == 6
    assert not space.extend(6, 1)
    assert space.free == 9
