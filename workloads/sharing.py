"""What requests have in common: shared prefixes, reuse, and what a cache could make of it."""

from __future__ import annotations

from array import array
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from workloads.request import Request

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Sharing:
    """Prefix sharing of a workload. Token counts are of prompts unless said otherwise.

    hits: by request, tokens that a cache of unlimited size holds when the request comes.
    shared: tokens that stand in another request's prompt too, after the same prefix.
    distinct: tokens left when every shared one is counted once.
    groups: sets of at least two prompts with the same beginning.
    depth: branchings from the beginning of a group to where a prompt is alone, at most.
    distances, reused: by reuse of a stretch of tokens, the tokens that a cache which forgets the
        least recently used must hold for it, and the tokens that are reused.
    """

    hits: Integers
    shared: int
    distinct: int
    groups: int
    depth: int
    distances: Integers
    reused: Integers


class SharingCounter:
    """Counts what requests share, in the order in which they come.

    Sequences are the tokens of prompt and output but for the last one, which is generated and
    never computed, so that no cache holds it. Memory grows with the number of branches.

    Reuse is counted by branch of the prefix path: the distance of a branch is the sum of all
    branches used since it was used last, itself included. The branches of one request are used
    from the last to the first, as engines free the blocks of a sequence, so a prefix never leaves
    before what is behind it.
    """

    def __init__(self) -> None:
        self._branches: dict[int, _Branch] = {}
        self._recency = _Recency()
        self._hits = array("q")
        self._distances = array("q")
        self._reused = array("q")
        self._alone = 0

    def see(self, request: Request) -> None:
        """Take one more request into account."""
        kept = request.prompt + request.output - 1
        if request.path is None:
            self._hits.append(0)
            self._alone += request.prompt
            self._recency.use_once(kept)
            return
        self._hits.append(self._hit(request))
        touched = []
        before, parent = 0, None
        for number, end in request.path:
            branch = self._branches.get(number)
            if branch is None:
                branch = self._branches[number] = _Branch(before, parent)
            branch.add(min(end, request.prompt))
            branch.end = max(branch.end, min(end, kept))
            touched.append(branch)
            before, parent = end, branch
        for branch in reversed(touched):
            branch.slot = self._recency.use(branch, branch.slot, branch.end - branch.start)

    def _hit(self, request: Request) -> int:
        """Tokens of the prompt that are there; notes at which distance."""
        hit = 0
        for number, end in request.path or ():
            branch = self._branches.get(number)
            reach = 0 if branch is None else min(end, branch.end, request.prompt)
            if branch is None or reach <= hit:
                break
            self._distances.append(self._recency.distance(branch.slot))
            self._reused.append(reach - hit)
            hit = reach
            if reach < end:
                break
        return hit

    def result(self) -> Sharing:
        """All that was counted so far."""
        branches = list(self._branches.values())
        depths: dict[int, int] = {}
        for branch in branches:
            parent = branch.parent
            above = 0 if parent is None else depths[id(parent)]
            # A branch that all of its parent's prompts go on with is no branching.
            same = parent is not None and parent.prompts == branch.prompts
            depths[id(branch)] = above + int(branch.prompts > 1 and not same)
        return Sharing(
            np.array(self._hits, np.int64),
            sum(branch.shared for branch in branches),
            sum(branch.longest for branch in branches) + self._alone,
            sum(branch.parent is None and branch.prompts > 1 for branch in branches),
            max(depths.values(), default=0),
            np.array(self._distances, np.int64),
            np.array(self._reused, np.int64),
        )


class _Branch:
    """A branch of the tree of all sequences: where it starts, and how far sequences follow it."""

    __slots__ = ("_second", "_total", "end", "longest", "parent", "prompts", "slot", "start")

    def __init__(self, start: int, parent: _Branch | None) -> None:
        self.start = start
        self.parent = parent
        self.end = start
        self.slot = -1
        self.prompts = 0
        self.longest = 0
        self._second = 0
        self._total = 0

    def add(self, end: int) -> None:
        """One more prompt follows the branch to ``end``, unless it ends in front of it."""
        tokens = end - self.start
        if tokens <= 0:
            return
        self.prompts += 1
        self._total += tokens
        self._second = max(self._second, min(self.longest, tokens))
        self.longest = max(self.longest, tokens)

    @property
    def shared(self) -> int:
        """Tokens of all prompts that at least one other has too: all but the longest's tail."""
        return self._total - (self.longest - self._second) if self.prompts > 1 else 0


class _Recency:
    """Sizes in order of last use, with sums from any place to the end (Fenwick's tree)."""

    def __init__(self) -> None:
        self._owners: list[_Branch | None] = []
        self._sizes: list[int] = []
        self._tree = [0] * 1025
        self._sum = 0

    def distance(self, slot: int) -> int:
        """The sum of the sizes from ``slot`` on."""
        before = 0
        while slot > 0:
            before += self._tree[slot]
            slot &= slot - 1
        return self._sum - before

    def use(self, owner: _Branch | None, slot: int, size: int) -> int:
        """Move what is in ``slot`` (-1: nothing) to the end with its new size; the new slot."""
        if slot >= 0:
            self._add(slot, -self._sizes[slot])
            self._sizes[slot] = 0
            self._owners[slot] = None
        if len(self._sizes) == len(self._tree) - 1:
            self._compact()
        self._sizes.append(0)
        self._owners.append(owner)
        self._add(len(self._sizes) - 1, size)
        self._sizes[-1] = size
        return len(self._sizes) - 1

    def use_once(self, size: int) -> None:
        """Something that is never asked for again, but pushes others out."""
        self.use(None, -1, size)

    def _add(self, slot: int, size: int) -> None:
        self._sum += size
        slot += 1
        while slot < len(self._tree):
            self._tree[slot] += size
            slot += slot & -slot

    def _compact(self) -> None:
        """Drop empty slots, and put neighbours together that nobody asks for again."""
        owners: list[_Branch | None] = []
        sizes: list[int] = []
        for owner, size in zip(self._owners, self._sizes, strict=True):
            if owner is None and owners and owners[-1] is None:
                sizes[-1] += size
            elif owner is not None or size:
                owners.append(owner)
                sizes.append(size)
        self._owners, self._sizes = owners, sizes
        self._tree = [0] * (max(1024, 2 * len(sizes)) + 1)
        self._sum = 0
        for slot, (owner, size) in enumerate(zip(owners, sizes, strict=True)):
            self._add(slot, size)
            if owner is not None:
                owner.slot = slot
