"""Keys of the prefix cache: integers made from prefix identity, where vLLM chains hashes.

The prefix that ends with a block is identified by (branch, end position), see
`workloads.request`; with the group's index that is the key. Equal keys mean equal tokens, equal
predecessors and an equal salt (a salt makes other branches). Blocks that follow each other on a
branch have keys in arithmetic progression, so a run of them is a `range`.
"""

from __future__ import annotations

from collections.abc import Iterator

from workloads.request import PrefixPath

_SPAN = 1 << 32
"""More than any position."""


class KeyMaker:
    """Keys of one group: ``index`` of ``groups``, with blocks of ``block_size`` tokens."""

    def __init__(self, index: int, groups: int, block_size: int) -> None:
        self._index = index
        self._groups = groups
        self._size = block_size

    def keys(self, path: PrefixPath, first: int, stop: int) -> Iterator[range]:
        """Keys of the blocks ``first .. stop - 1`` of a sequence, a range for every branch.

        The path must reach to the end of the last block.
        """
        size, groups, index = self._size, self._groups, self._index
        for branch, end in path:
            until = end // size
            if until <= first:
                continue
            until = min(until, stop)
            base = branch * _SPAN
            yield range(
                (base + (first + 1) * size) * groups + index,
                (base + until * size) * groups + index + 1,
                size * groups,
            )
            first = until
            if first == stop:
                return

    def key(self, path: PrefixPath, entry: int) -> int:
        """The key of one block."""
        stop = (entry + 1) * self._size
        for branch, end in path:
            if end >= stop:
                return (branch * _SPAN + stop) * self._groups + self._index
        raise IndexError(f"no block {entry} on {path}")


def public_length(path: PrefixPath) -> int:
    """Leading tokens that others may have too: those before the first private branch."""
    length = 0
    for branch, end in path:
        if branch < 0:
            break
        length = end
    return length
