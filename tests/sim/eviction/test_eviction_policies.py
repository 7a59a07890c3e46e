"""Every eviction policy against a plain list-made reference, on made-up requests."""

from collections import OrderedDict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.eviction.arc import ARC
from sim.eviction.cache import BlockCache
from sim.eviction.fifo import FIFO
from sim.eviction.length_aware import LengthAware
from sim.eviction.lfu import LFU
from sim.eviction.lru import LRU
from sim.eviction.s3fifo import S3FIFO
from sim.eviction.slru import SLRU
from workloads.errors import InputError
from workloads.request import Request

# References: `at(key, end)` says whether it was a hit, and looks at every entry at every step.


class Stamped:
    """The entry with the smallest ``rank`` goes; an entry is [came, used, hits, end]."""

    def __init__(self, capacity):
        self.capacity, self.now, self.entries = capacity, 0, {}

    def at(self, key, end):
        self.now += 1
        if key in self.entries:
            self.entries[key][1] = self.now
            self.entries[key][2] += 1
            return True
        if len(self.entries) == self.capacity:
            del self.entries[min(self.entries, key=lambda k: self.rank(*self.entries[k]))]
        self.entries[key] = [self.now, self.now, 0, end]
        return False


class PlainLRU(Stamped):
    def rank(self, came, used, hits, end):
        return used


class PlainFIFO(Stamped):
    def rank(self, came, used, hits, end):
        return came


class PlainLFU(Stamped):
    def rank(self, came, used, hits, end):
        return hits, used


class PlainLengthAware(Stamped):
    def rank(self, came, used, hits, end):
        return -end, used


class PlainSLRU:
    def __init__(self, capacity):
        self.capacity, self.most = capacity, int(0.8 * capacity)
        self.probation, self.protected = [], []

    def at(self, key, end):
        if key in self.probation or key in self.protected:
            (self.probation if key in self.probation else self.protected).remove(key)
            self.protected.append(key)
            if len(self.protected) > self.most:
                self.probation.append(self.protected.pop(0))
            return True
        if len(self.probation) + len(self.protected) == self.capacity:
            (self.probation or self.protected).pop(0)
        self.probation.append(key)
        return False


class PlainARC:
    """Figure 4 of the paper, case by case; lists begin with their LRU page."""

    def __init__(self, capacity):
        self.c, self.p = capacity, 0
        self.t1, self.t2, self.b1, self.b2 = [], [], [], []

    def replace(self, key):
        t1 = len(self.t1)
        if t1 >= 1 and ((key in self.b2 and t1 == self.p) or t1 > self.p):
            self.b1.append(self.t1.pop(0))
        else:
            self.b2.append(self.t2.pop(0))

    def at(self, key, end):
        if key in self.t1 or key in self.t2:
            (self.t1 if key in self.t1 else self.t2).remove(key)
            self.t2.append(key)
            return True
        if key in self.b1:
            self.p = min(self.p + max(len(self.b2) / len(self.b1), 1), self.c)
            self.replace(key)
            self.b1.remove(key)
            self.t2.append(key)
        elif key in self.b2:
            self.p = max(self.p - max(len(self.b1) / len(self.b2), 1), 0)
            self.replace(key)
            self.b2.remove(key)
            self.t2.append(key)
        else:
            l1, l2 = len(self.t1) + len(self.b1), len(self.t2) + len(self.b2)
            if l1 == self.c:
                if len(self.t1) < self.c:
                    self.b1.pop(0)
                    self.replace(key)
                else:
                    self.t1.pop(0)
            elif l1 + l2 >= self.c:
                if l1 + l2 == 2 * self.c:
                    self.b2.pop(0)
                self.replace(key)
            self.t1.append(key)
        return False


class PlainS3FIFO:
    def __init__(self, capacity):
        self.capacity, self.most_small = capacity, 0.1 * capacity
        self.small, self.main, self.ghosts, self.hits = [], [], [], {}

    def at(self, key, end):
        if key in self.small or key in self.main:
            self.hits[key] = min(self.hits[key] + 1, 3)
            return True
        if len(self.small) + len(self.main) == self.capacity:
            if len(self.small) >= self.most_small:
                self.leave_small() or self.leave_main()
            else:
                self.leave_main() or self.leave_small()
        if key in self.ghosts:
            self.ghosts.remove(key)
            self.main.append(key)
        else:
            self.small.append(key)
        self.hits[key] = 0
        return False

    def leave_small(self):
        while self.small:
            key = self.small.pop(0)
            if self.hits[key] < 2:
                self.ghosts.append(key)
                while len(self.ghosts) > self.capacity - self.most_small:
                    self.ghosts.pop(0)
                return True
            self.hits[key] = 0
            self.main.append(key)
            if len(self.main) > self.capacity - self.most_small:
                return self.leave_main()
        return False

    def leave_main(self):
        while self.main:
            key = self.main.pop(0)
            if not self.hits[key]:
                return True
            self.hits[key] -= 1
            self.main.append(key)
        return False


PAIRS = [
    (LRU, PlainLRU),
    (FIFO, PlainFIFO),
    (LFU, PlainLFU),
    (LengthAware, PlainLengthAware),
    (SLRU, PlainSLRU),
    (ARC, PlainARC),
    (S3FIFO, PlainS3FIFO),
]
blocks = st.one_of(
    st.lists(st.integers(0, 40), max_size=400),
    st.lists(st.integers(0, 400).map(lambda x: x * x // 4000), max_size=400),
)


@pytest.mark.parametrize(("evictor", "plain"), PAIRS)
@settings(max_examples=40, deadline=None)
@given(blocks, st.integers(1, 25))
def test_every_block_is_a_hit_or_a_miss_as_in_the_reference(evictor, plain, blocks, capacity):
    cache, reference = BlockCache(capacity, evictor(capacity)), plain(capacity)
    for block in blocks:
        assert cache.serve([block], block_size=1 + block % 7) == reference.at(block, 1 + block % 7)
        assert len(cache) <= capacity


@pytest.mark.parametrize(("evictor", "plain"), PAIRS)
@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("itre"), st.integers(0, 30), st.integers(1, 9))),
    st.sets(st.integers(0, 30), max_size=20),
)
def test_only_entries_that_may_go_and_all_of_them(evictor, plain, steps, kept):
    """Entries of any size come, are hit, and leave by themselves or because they have to."""
    policy, held = evictor(40), OrderedDict()
    for step, key, size in steps:
        if step == "i" and key not in held:
            policy.insert(key, size, size)
            held[key] = size
        elif step == "t" and key in held:
            policy.touch(key)
        elif step == "r" and key in held:
            policy.remove(key)
            del held[key]
        elif step == "e":
            gone = policy.evict(lambda key: key not in kept)
            assert (gone is None) == (set(held) <= kept)
            if gone is not None:
                assert gone not in kept
                del held[gone]
    while (gone := policy.evict()) is not None:
        del held[gone]
    assert not held


def test_leading_hits_end_with_the_first_block_that_is_missing():
    cache = BlockCache(3, LRU(3))
    assert cache.serve("abc") == 0
    assert cache.serve("abx") == 2
    assert cache.serve("abx") == 3
    assert cache.serve("zbx") == 0
    assert cache.evictions == 2 and "a" not in cache


def test_wrong_caches_are_refused():
    from sim.eviction.cache import evictor_of, hit_rates

    with pytest.raises(InputError, match="expected at least 1"):
        BlockCache(0, LRU(0))
    with pytest.raises(InputError, match="did you mean 's3fifo'"):
        evictor_of("s3-fifo", 4)
    with pytest.raises(InputError, match="not an eviction policy"):
        evictor_of("sim.sequence:Sequence", 4)
    with pytest.raises(InputError, match="no requests"):
        hit_rates([], 16, None)


def test_hit_rates_of_two_turns():
    from sim.eviction.cache import hit_rates

    first = Request(0, 0.0, 40, 8, ((0, 48),))
    second = Request(1, 1.0, 60, 4, ((0, 48), (1, 64)))
    other = Request(2, 2.0, 20, 4)
    rates = hit_rates([first, second, other], 16, None)
    assert rates.tokens == 32 / 120
    assert rates.requests == pytest.approx((32 / 60) / 3)
    assert rates.evictions == 0
    assert hit_rates([first, other, second], 16, 1).tokens == 0
