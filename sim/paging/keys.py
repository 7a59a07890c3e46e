"""Keys of the prefix cache: integers made from prefix identity, where vLLM chains hashes.

The prefix that ends with a block is identified by (branch, end position), see
`workloads.request`; with the group's index that is the key. Equal keys mean equal tokens, equal
predecessors and an equal salt (a salt makes other branches).
"""

from __future__ import annotations

from workloads.request import PrefixPath

_SPAN = 1 << 32
"""More than any position."""


class KeyMaker:
    """Keys of group 0 of ``groups``; group i has the same ones plus i.

    Remembers the keys of the path that was asked for last, as it is asked for again and again:
    by all groups, by sequences that are refused, and when what was looked up in vain is filled in.
    """

    def __init__(self, groups: int) -> None:
        self._groups = groups
        self._path: PrefixPath = ()
        self._size = 0
        self._keys: list[int] = []

    def keys(self, path: PrefixPath, size: int, first: int, stop: int) -> list[int]:
        """Of the blocks ``first .. stop - 1`` of ``size`` tokens; the path must reach so far."""
        if path is self._path and size == self._size and stop <= len(self._keys):
            return self._keys[first:stop]
        keys = self._made(path, size, first, stop)
        if first == 0:
            self._path, self._size, self._keys = path, size, keys
        return keys.copy()

    def _made(self, path: PrefixPath, size: int, first: int, stop: int) -> list[int]:
        keys: list[int] = []
        groups = self._groups
        for branch, end in path:
            until = min(end // size, stop)
            if until > first:
                base = branch * _SPAN
                start, last = (base + (first + 1) * size) * groups, (base + until * size) * groups
                keys += range(start, last + 1, size * groups)
                first = until
        return keys

    def key(self, path: PrefixPath, size: int, entry: int) -> int:
        """Of one block."""
        stop = (entry + 1) * size
        for branch, end in path:
            if end >= stop:
                return (branch * _SPAN + stop) * self._groups
        raise IndexError(f"no block {entry} on {path}")


def public_length(path: PrefixPath) -> int:
    """Leading tokens that others may have too: those before the first private branch."""
    length = 0
    for branch, end in path:
        if branch < 0:
            break
        length = end
    return length
