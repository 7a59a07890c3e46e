"""Rules of the radix cache, broken one at a time: the comparison with the reference notices."""

import importlib.util
import random
import sys
from pathlib import Path

import numpy as np
import pytest

from sim.checking import CheckedRun
from sim.errors import IntegrityError
from sim.eviction.lru import LRU
from sim.policies.radix import Radix
from sim.radix.manager import RadixManager
from sim.radix.pool import PageStack, SlotQueue
from sim.radix.tree import RadixTree
from workloads.request import Request

_spec = importlib.util.spec_from_file_location(
    "radix_reference", Path(__file__).with_name("test_radix_reference.py")
)
reference = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = reference
_spec.loader.exec_module(reference)


def traffic(seed):
    rng, requests = random.Random(seed), []
    for number in range(14):
        prompt, output = rng.randint(1, 60), rng.randint(1, 25)
        path = ((number, prompt + output),)
        if requests and rng.random() < 0.75:
            before = rng.choice(requests)
            shared = rng.randint(1, before.prompt + before.output)
            kept = tuple((branch, end) for branch, end in before.path if end < shared)
            branch = next(branch for branch, end in before.path if end >= shared)
            prompt = max(prompt, shared)
            path = (*kept, (branch, shared), (number, prompt + output))
        requests.append(Request(number, float(number * 6), prompt, output, path))
    return requests


def serve_all(budget_of):
    for seed in range(6):
        for page_size in (1, 4):
            options = Radix.Options(page_size=page_size)
            budget = budget_of(tokens=140, max_seqs=4)
            CheckedRun(reference.Compared(budget, options), {"max_batched_tokens": 32}).serve(
                traffic(seed)
            )


def test_nothing_is_noticed_where_nothing_is_broken(budget_of):
    serve_all(budget_of)


def give_first(self, pages):
    """A queue that works like a stack."""
    self._head = (self._head - len(pages)) % self.size
    self._ring[(self._head + np.arange(len(pages))) % self.size] = pages
    self.free += len(pages)


def give_unsorted(self, pages):
    self._stack[self.free : self.free + len(pages)] = pages[::-1]
    self.free += len(pages)


def keep_when_preempted(self, owner, computed, cached, leave=RadixManager.leave):
    leave(self, owner, computed, True)


def lose_at_the_end(self, owner, computed, cached, leave=RadixManager.leave):
    leave(self, owner, computed, False)


def include_last_token(self, seq):
    node = self.manager.tree.match(seq.path, seq.tokens)
    self._found = (seq, node)
    return node.end


def lock_only_the_end(self, before, mark, node):
    if node is not before and node is not self.root:
        self.evictable -= node.size * (not node.locks)
        self.protected += node.size * (not node.locks)
        node.locks += 1
    return 0


def keep_duplicates(self, node, path, stop, pages, given_up=0, insert=RadixTree.insert):
    return insert(self, node, path, stop, pages, given_up)[0], 0


MUTANTS = {
    "slots are taken last in, first out": (SlotQueue, "give", give_first),
    "pages are given back unsorted": (PageStack, "give", give_unsorted),
    "use does not renew": (LRU, "renew", lambda self, key: None),
    "a retracted sequence is cached": (RadixManager, "leave", keep_when_preempted),
    "an ended sequence is lost": (RadixManager, "leave", lose_at_the_end),
    "all of a prompt can be hit": (Radix, "lookup", include_last_token),
    "only the last edge is locked": (RadixTree, "move_lock", lock_only_the_end),
    "duplicates are not freed": (RadixTree, "insert", keep_duplicates),
    "chunks enter late": (RadixManager, "cache", lambda self, holding, end: None),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_broken_rule_is_noticed(budget_of, monkeypatch, name):
    where, what, broken = MUTANTS[name]
    monkeypatch.setattr(where, what, broken)
    with pytest.raises((AssertionError, IntegrityError, KeyError, ValueError)):
        serve_all(budget_of)
