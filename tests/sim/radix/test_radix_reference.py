"""`radix` against a plain radix cache that knows nothing but tokens, call by call.

The reference keeps lists of tokens and of slots, looks at every token, and at the whole tree when
it evicts. Both must find the same hits, give the same slots, and keep the same free list.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sim.checking import CheckedRun
from sim.policies.radix import Radix
from sim.sequence import Status
from sim.shadow import token_at
from workloads.request import Request


@dataclass(eq=False)
class PlainNode:
    tokens: list
    slots: list
    parent: PlainNode | None
    used: int
    locks: int = 0
    children: list = field(default_factory=list)


class PlainRadix:
    """Slots of single tokens; a page is ``page`` slots in a row, and the unit of everything."""

    def __init__(self, pages, page):
        self.page = page
        self.free = list(range(pages))
        self.root = PlainNode([], [], None, 0)
        self.clock = self.evictions = 0
        self.tables, self.last, self.protected = {}, {}, {}

    # Pages.

    def give(self, slots):
        pages = list(dict.fromkeys(slot // self.page for slot in slots))
        self.free = self.free + pages if self.page == 1 else sorted(pages) + self.free

    def take(self, pages):
        if len(self.free) + self.evictable() < pages:
            return None
        while len(self.free) < pages:
            assert self.evict_one()
        taken, self.free = self.free[:pages], self.free[pages:]
        return [page * self.page + i for page in taken for i in range(self.page)]

    # Tree.

    def all_nodes(self, node=None):
        node = node or self.root
        for child in node.children:
            yield child
            yield from self.all_nodes(child)

    def evictable(self):
        return sum(len(n.slots) for n in self.all_nodes() if not n.locks) // self.page

    def evict_one(self):
        leaves = [n for n in self.all_nodes() if not n.locks and not n.children]
        oldest = min(leaves, key=lambda node: node.used)
        oldest.parent.children.remove(oldest)
        self.evictions += len(oldest.slots) // self.page
        self.give(oldest.slots)
        return True

    def walk(self, tokens):
        """The node where the longest prefix of whole pages ends, made if need be."""
        self.clock += 1
        stamp, node, rest = self.clock, self.root, tokens[: len(tokens) // self.page * self.page]
        while rest:
            child = next(
                (c for c in node.children if c.tokens[: self.page] == rest[: self.page]), None
            )
            if child is None:
                break
            child.used = stamp
            same = 0
            while child.tokens[same : same + self.page] == rest[same : same + self.page] != []:
                same += self.page
            if same < len(child.tokens):
                self.clock += 1
                upper = PlainNode(
                    child.tokens[:same], child.slots[:same], node, self.clock, child.locks, [child]
                )
                node.children[node.children.index(child)] = upper
                child.tokens, child.slots = child.tokens[same:], child.slots[same:]
                child.parent = upper
                return upper
            node, rest = child, rest[same:]
        return node

    def prefix(self, node):
        slots = []
        while node is not self.root:
            slots, node = node.slots + slots, node.parent
        return slots

    def lock(self, node, by):
        while node is not self.root:
            node.locks += by
            node = node.parent

    def insert(self, tokens, slots):
        """How many leading tokens were there already."""
        tokens = tokens[: len(tokens) // self.page * self.page]
        node = self.walk(tokens)
        there = len(self.prefix(node))
        if there < len(tokens):
            self.clock += 1
            child = PlainNode(tokens[there:], slots[there : len(tokens)], node, self.clock)
            node.children.append(child)
        return there

    # Requests.

    def admit(self, seq, tokens, hit):
        node = self.walk(tokens[:hit]) if hit else self.root
        assert len(self.prefix(node)) == hit
        self.lock(node, 1)
        self.tables[seq], self.last[seq], self.protected[seq] = self.prefix(node), node, hit

    def extend(self, seq, end):
        table = self.tables[seq]
        missing = -(-end // self.page) - len(table) // self.page
        slots = self.take(missing) if missing > 0 else []
        if slots is None:
            return False
        table += slots
        return True

    def cache_unfinished(self, seq, tokens):
        table, full = self.tables[seq], len(tokens) // self.page * self.page
        there = self.insert(tokens, table)
        spare = table[self.protected[seq] : there]
        node = self.walk(tokens)
        table[:full] = self.prefix(node)
        if spare:
            self.give(spare)
        self.lock(self.last[seq], -1)
        self.lock(node, 1)
        self.last[seq], self.protected[seq] = node, full

    def leave(self, seq, tokens, insert):
        table, before = self.tables.pop(seq), self.protected.pop(seq)
        full = len(tokens) // self.page * self.page if insert else before
        if insert:
            there = self.insert(tokens, table)
            if there > before:
                self.give(table[before:there])
        if table[max(full, before) :]:
            self.give(table[max(full, before) :])
        self.lock(self.last.pop(seq), -1)


class Compared(Radix):
    """`Radix` with the reference beside it; they are compared after every call."""

    def __init__(self, budget, options=None):
        super().__init__(budget, options)
        self.plain = PlainRadix(self.manager.pool.size, self.options.page_size)

    def tokens(self, seq, n):
        return [token_at(seq, position) for position in range(n)]

    def compare(self):
        plain = self.plain
        assert self.manager.pool.free_pages().tolist() == plain.free
        assert self.manager.tree.evictable == plain.evictable() * plain.page
        assert self.evictions == plain.evictions
        mine = sorted((node.end, node.size, node.locks) for node in self.manager.tree.nodes())
        theirs = sorted((len(plain.prefix(n)), len(n.slots), n.locks) for n in plain.all_nodes())
        assert mine == theirs
        for seq in self._seqs.values():
            held = self.manager.pages_held(self.manager.holdings[seq.id])
            slots = held[:, None] * plain.page + range(plain.page)
            assert slots.ravel().tolist() == plain.tables[seq.id]

    def lookup(self, seq):
        hit = super().lookup(seq)
        node = self.plain.walk(self.tokens(seq, seq.tokens - 1))
        assert len(self.plain.prefix(node)) == hit
        self.compare()
        return hit

    def allocate(self, seq, n, hit=0):
        new = seq.id not in self._seqs
        fits = super().allocate(seq, n, hit)
        if fits and new:
            self.plain.admit(seq.id, self.tokens(seq, hit), hit)
        if fits or not new:
            assert self.plain.extend(seq.id, seq.computed + hit + n) == fits
        self.compare()
        return fits

    def release(self, seq):
        held = seq.id in self._seqs
        super().release(seq)
        if held:
            insert = seq.status is not Status.PREEMPTED
            self.plain.leave(seq.id, self.tokens(seq, seq.computed), insert)
            self.compare()

    def commit(self, step):
        chunks = [(seq, self.manager.holdings[seq.id].end) for seq in self._chunks.values()]
        placement = super().commit(step)
        for seq, end in chunks:
            self.plain.cache_unfinished(seq.id, self.tokens(seq, end))
        self.compare()
        return placement


@st.composite
def traffic(draw):
    """Requests that often go on from the prompt, or the answer, of an earlier one."""
    requests, arrival = [], 0
    for number in range(draw(st.integers(1, 9))):
        arrival += draw(st.integers(0, 25))
        prompt, output = draw(st.integers(1, 60)), draw(st.integers(1, 25))
        path = ((number, prompt + output),)
        if requests and draw(st.integers(0, 3)):
            before = draw(st.sampled_from(requests))
            shared = draw(st.integers(1, before.prompt + before.output))
            kept = tuple((branch, end) for branch, end in before.path if end < shared)
            branch = next(branch for branch, end in before.path if end >= shared)
            prompt = max(prompt, shared)
            path = (*kept, (branch, shared), (number, prompt + output))
        if draw(st.integers(0, 5)) == 0 and requests:
            prompt, output, path = before_of(draw(st.sampled_from(requests)))
        requests.append(Request(number, float(arrival), prompt, output, path))
    return requests


def before_of(request):
    """The very same again: both compute, one keeps."""
    return request.prompt, request.output, request.path


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    traffic(),
    st.sampled_from([1, 1, 4]),
    st.sampled_from([120, 160, 400]),
    st.sampled_from([16, 64]),
    st.booleans(),
)
def test_hits_slots_and_evictions_are_those_of_the_reference(
    budget_of, requests, page, tokens, batched, whole
):
    policy = Compared(
        budget_of(tokens=tokens, max_seqs=4),
        Radix.Options(page_size=page, reserve_full_isl=whole),
    )
    run = CheckedRun(policy, {"max_batched_tokens": batched})
    run.serve(requests)
    assert run.finished
