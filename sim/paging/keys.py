"""Where things stand in the prefix cache: entries on branches, where vLLM chains hashes.

The prefix that ends with a block is identified by (branch, end position), see
`workloads.request`, and so by the branch and the entry of the block. Equal ones mean equal
tokens, equal predecessors and an equal salt (a salt makes other branches).
"""

from __future__ import annotations

from typing import Final

from workloads.request import PrefixPath

_SPAN: Final = 1 << 32
"""More than any position."""

Part = tuple[int, int, int]
"""Entries ``first .. stop - 1`` that are on one branch: (branch, first, stop)."""


def parts_of(path: PrefixPath, size: int, first: int, stop: int) -> list[Part]:
    """The entries ``first .. stop - 1`` of blocks of ``size`` tokens, branch by branch.

    The path must reach so far. A block is on the branch that its last token is on.
    """
    parts: list[Part] = []
    if first >= stop:
        return parts
    if first:
        # It is mostly near the end.
        begin = len(path) - 1
        while begin and path[begin - 1][1] // size > first:
            begin -= 1
        path = path[begin:]
    for branch, end in path:
        until = end // size
        if until > first:
            if until >= stop:
                parts.append((branch, first, stop))
                break
            parts.append((branch, first, until))
            first = until
    return parts


def branch_of(path: PrefixPath, size: int, entry: int) -> int:
    """The branch that one block is on, looked for from the end; the path must reach so far."""
    place = len(path) - 1
    while place and path[place - 1][1] // size > entry:
        place -= 1
    return path[place][0]


class KeyMaker:
    """Keys of blocks for caches that know blocks by one number each.

    Remembers the keys of the path that was asked for last, as it is asked for again and again.
    """

    def __init__(self) -> None:
        self._path: PrefixPath = ()
        self._size = 0
        self._keys: list[int] = []

    def keys(self, path: PrefixPath, size: int, first: int, stop: int) -> list[int]:
        """Of the blocks ``first .. stop - 1`` of ``size`` tokens; the path must reach so far."""
        if path is self._path and size == self._size and stop <= len(self._keys):
            return self._keys[first:stop]
        keys: list[int] = []
        for branch, begin, end in parts_of(path, size, first, stop):
            base = branch * _SPAN
            keys += range(base + (begin + 1) * size, base + end * size + 1, size)
        if first == 0:
            self._path, self._size, self._keys = path, size, keys
        return keys.copy()

    def key(self, path: PrefixPath, size: int, entry: int) -> int:
        """Of one block."""
        return branch_of(path, size, entry) * _SPAN + (entry + 1) * size


def public_length(path: PrefixPath) -> int:
    """Leading tokens that others may have too: those before the first private branch."""
    length = 0
    for branch, end in path:
        if branch < 0:
            break
        length = end
    return length
