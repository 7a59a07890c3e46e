"""The window-aware tree: tombstones, what is found over them, and how bytes are divided."""

import pytest

from sim.errors import IntegrityError
from sim.plugins import policy_of
from sim.radix.layout import pools_of
from sim.sequence import Sequence, Status
from sim.step import Run, Step
from workloads.request import Request

WINDOW = 40


def served(policy, number, prompt, output, path):
    """One request alone, its prompt in one step; the tokens that it found."""
    seq = Sequence(number, Request(number, 0.0, prompt, output, path))
    hit = policy.lookup(seq)
    assert policy.allocate(seq, prompt - hit, hit)
    policy.commit(Step([Run(seq, hit, prompt - hit)]))
    seq.computed, seq.tokens, seq.status = prompt, prompt + 1, Status.RUNNING
    for _ in range(output - 1):
        assert policy.allocate(seq, 1)
        policy.commit(Step([Run(seq, seq.computed, 1)]))
        seq.computed, seq.tokens = seq.computed + 1, seq.tokens + 1
        policy.check_integrity()
    seq.status = Status.FINISHED
    policy.release(seq)
    policy.check_integrity()
    return hit


def tombstones(policy):
    return sorted((n.start, n.end) for n in policy.manager.tree.nodes() if n.tombstone)


def test_what_decoding_left_behind_its_window_stays_as_a_tombstone(budget_of):
    policy = policy_of("radix", budget_of("windowed"))
    assert served(policy, 0, 50, 150, ((0, 200),)) == 0
    ((start, end),) = tombstones(policy)
    assert start == 50 and 50 + WINDOW < end <= 199 - WINDOW


def test_a_prefix_is_found_only_where_the_window_before_its_end_is_there(budget_of):
    policy = policy_of("radix", budget_of("windowed"))
    served(policy, 0, 50, 150, ((0, 200),))
    ((_, gone),) = tombstones(policy)
    # Up to the prompt's end all is there; behind it the window is, but only from `gone` on.
    assert served(policy, 1, 60, 1, ((0, 50), (1, 61))) == 50
    assert served(policy, 2, 120, 1, ((0, 110), (2, 121))) == 50
    assert gone + WINDOW <= 199
    assert served(policy, 3, 205, 1, ((0, 199), (3, 206))) == 199
    # What the third has computed again is whole now; its end is the best up to `gone` + 39.
    assert served(policy, 4, 205, 1, ((0, gone + WINDOW - 1), (4, 206))) == 110


def test_computing_a_tombstone_again_revives_it(budget_of):
    policy = policy_of("radix", budget_of("windowed"))
    served(policy, 0, 50, 150, ((0, 200),))
    held = policy.manager.tree.evictable
    assert served(policy, 1, 120, 1, ((0, 120), (1, 121))) == 50
    assert served(policy, 2, 120, 1, ((0, 120), (2, 121))) == 119
    # Both computed the same tokens: one copy of each is kept.
    assert policy.manager.tree.evictable == held


def test_window_slots_go_near_the_root_first_and_leaves_go_whole(budget_of):
    policy = policy_of("radix", budget_of("windowed", tokens=400))
    served(policy, 0, 60, 1, ((0, 61),))
    served(policy, 1, 120, 1, ((0, 60), (1, 121)))
    tree, pools = policy.manager.tree, policy.manager.pool
    before = tree.evictable
    tree.make_room(0, pools.window.free + 1)
    ((start, _),) = tombstones(policy)
    assert start == 0 and tree.evictable == before
    (buried,) = (end - start for start, end in tombstones(policy))
    assert policy.evictions == buried > 0
    policy.check_integrity()
    # Until nothing is left with window slots: tombstones without anything behind them go too.
    tree.make_room(0, pools.window.size)
    assert tree.evictable == 0 and not list(tree.nodes())
    assert policy.evictions == before + tree.window_evicted
    policy.check_integrity()
    with pytest.raises(IntegrityError, match="no edge to evict"):
        tree.make_room(0, pools.window.size + 1)


def test_bytes_are_divided_by_the_ratio(budget_of):
    budget = budget_of("windowed", tokens=900)
    groups = budget.model.groups()
    pools = pools_of(budget, groups, 1, windowed=True, ratio=0.8)
    # Two layers of equal size, one of them with a window: 1 + 0.8 layers a token of the first.
    assert (pools.pages, pools.window_pages, pools.window) == (1000, 800, WINDOW)
    together = pools_of(budget, groups, 1, windowed=False, ratio=0.8)
    assert (together.pages, together.window_pages, together.window) == (900, 0, 0)


def test_two_caches_are_reported(budget_of):
    policy = policy_of("radix", budget_of("windowed", tokens=900))
    assert [policy.cache_of(group) for group in range(2)] == [0, 1]
    full, window = policy.usage()
    assert (full.capacity, window.capacity) == (1000, 800)
    assert full.cell_bytes == window.cell_bytes
