"""Prefix paths: comparing them, checking them, and making them from token ids.

What a path means is written in `workloads.request`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Hashable, Iterator, Sequence
from itertools import count
from operator import itemgetter

import numpy as np
from numpy.typing import ArrayLike, NDArray

from workloads.errors import InputError
from workloads.request import PrefixPath

Integers = NDArray[np.int64]

_end_of = itemgetter(1)


def branch_at(path: PrefixPath, i: int) -> int:
    """The branch that identifies the prefix of ``i`` tokens, 0 <= i <= end of the path.

    Raises `IndexError` beyond the end.
    """
    return path[bisect_left(path, i, key=_end_of)][0]


def common_prefix(path_a: PrefixPath, path_b: PrefixPath) -> int:
    """How many leading tokens two paths are known to share."""
    shared = 0
    for (branch_a, end_a), (branch_b, end_b) in zip(path_a, path_b, strict=False):
        if branch_a != branch_b:
            break
        shared = min(end_a, end_b)
        if end_a != end_b:
            break
    return shared


def check_path(path: PrefixPath, length: int) -> None:
    """Raise `InputError` unless ``path`` is sound and reaches over exactly ``length`` tokens."""
    before = 0
    for branch, end in path:
        if type(branch) is not int or type(end) is not int:
            raise InputError(f"expected [branch, end] as whole numbers, got {[branch, end]}")
        if not 0 <= branch < 2**63:
            raise InputError(f"expected branches from 0 below 2**63, got {branch}")
        if end <= before:
            raise InputError(f"expected ends that rise from 1, got {end} after {before}")
        before = end
    if before != length:
        raise InputError(f"expected a path over {length} tokens (prompt + output), got {before}")
    if len({branch for branch, _ in path}) < len(path):
        raise InputError("expected every branch once in a path")


class PrefixTree:
    """Gives equal token prefixes equal identities.

    Made of branches: the first sequence to bring new tokens stores them as a branch, or at the
    tip of the branch it follows to the end; later ones that leave it midway start a branch there.
    No token is stored twice and no identity, once given, changes. Tokens are kept as runs of
    consecutive ids, so memory grows with distinct content, in runs.
    """

    def __init__(self, numbers: Iterator[int] | None = None) -> None:
        """``numbers`` are those of new branches, from 0 if not given; trees may share them."""
        self._roots: dict[tuple[Hashable, int], _Branch] = {}
        self._numbers = count() if numbers is None else numbers

    def path(self, tokens: ArrayLike | Sequence[object], salt: Hashable = None) -> PrefixPath:
        """The path over ``tokens``; the tree learns what is new.

        tokens: token ids, or runs ``[[start, n], ...]`` meaning start .. start + n - 1 each.
        salt: sequences with different salts share nothing.

        Raises `InputError` for anything else than whole numbers.
        """
        slopes, ends = _runs_of(tokens)
        if not ends.size:
            return ()
        length = int(ends[-1])
        reached = 0
        path: list[tuple[int, int]] = []
        children: dict[tuple[Hashable, int], _Branch] = self._roots
        key: tuple[Hashable, int] = (salt, int(slopes[0]))
        while True:
            branch = children.get(key)
            if branch is None:
                new = int(np.searchsorted(ends, reached, side="right"))
                branch = _Branch(self.private_branch(), reached, slopes[new:], ends[new:])
                children[key] = branch
                return (*path, (branch.number, length))
            reached = branch.agreement(slopes, ends)
            if reached == branch.end < length:
                branch.extend(slopes, ends)
                reached = length
            path.append((branch.number, reached))
            if reached == length:
                return tuple(path)
            run = int(np.searchsorted(ends, reached, side="right"))
            children, key = branch.children, (reached, int(slopes[run]) + reached)

    def private_branch(self) -> int:
        """A branch that nobody else has, say for an output whose tokens are not known."""
        return next(self._numbers)


class _Branch:
    """Tokens from position ``start`` on, and the branches that leave them.

    The token at position i is ``i + slope`` of the run that i lies in; ``ends`` are the positions
    where runs end. Neighbouring runs differ in slope, so equal tokens have equal arrays.
    """

    __slots__ = ("children", "ends", "number", "slopes", "start")

    def __init__(self, number: int, start: int, slopes: Integers, ends: Integers) -> None:
        self.number = number
        self.start = start
        self.slopes = slopes
        self.ends = ends
        self.children: dict[tuple[Hashable, int], _Branch] = {}

    @property
    def end(self) -> int:
        return int(self.ends[-1])

    def agreement(self, slopes: Integers, ends: Integers) -> int:
        """The position up to which a sequence that enters this branch follows it."""
        first = int(np.searchsorted(ends, self.start, side="right"))
        slopes, ends = slopes[first:], ends[first:]
        n = min(slopes.size, self.slopes.size)
        differ = (slopes[:n] != self.slopes[:n]) | (ends[:n] != self.ends[:n])
        k = int(differ.argmax()) if differ.any() else n - 1
        if slopes[k] == self.slopes[k]:
            return int(min(ends[k], self.ends[k]))
        return int(ends[k - 1])

    def extend(self, slopes: Integers, ends: Integers) -> None:
        """Take over what a sequence has beyond the tip of this branch."""
        first = int(np.searchsorted(ends, self.end, side="right"))
        kept = self.slopes.size - int(self.slopes[-1] == slopes[first])
        self.slopes = np.concatenate((self.slopes[:kept], slopes[first:]))
        self.ends = np.concatenate((self.ends[:kept], ends[first:]))


def _runs_of(tokens: ArrayLike | Sequence[object]) -> tuple[Integers, Integers]:
    """Slopes and ends of the longest runs of consecutive ids (see `_Branch`)."""
    try:
        given = np.asarray(tokens)
    except ValueError:
        given = np.array(None)
    if given.size == 0:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    runs = given.ndim == 2 and given.shape[1] == 2
    if given.dtype.kind not in "iu" or not (given.ndim == 1 or runs):
        raise InputError("expected token ids as whole numbers, or runs [[start, n], ...]")
    given = given.astype(np.int64)
    starts, sizes = (given[:, 0], given[:, 1]) if runs else (given, np.ones_like(given))
    if (sizes < 1).any():
        raise InputError("expected runs [start, n] of at least one token")
    ends = np.cumsum(sizes)
    slopes = starts - (ends - sizes)
    changes = slopes[1:] != slopes[:-1]
    return slopes[np.append(True, changes)], ends[np.append(changes, True)]
