"""Prefix paths from ids of blocks, as traces with hashed contents have them."""

from __future__ import annotations

from itertools import count
from typing import Any

from workloads.prefix import PrefixTree
from workloads.request import OUTPUTS, PrefixPath
from workloads.traces.lines import Source, shortened


class BlockPaths:
    """Paths of prompts whose tokens are known as one id for each block.

    Equal ids stand for equal blocks; prefixes are equal where all ids up to there are. Nothing is
    asked of ids beyond that: they need not depend on what is in front of the block. Each output
    is nobody else's.
    """

    def __init__(self, block_size: int) -> None:
        self.block_size = block_size
        self._numbers = count()
        self._tree = PrefixTree(self._numbers)
        self._outputs = count(OUTPUTS)

    def forget(self) -> None:
        """Start a new namespace: no id that follows has anything in common with earlier ones."""
        self._tree = PrefixTree(self._numbers)

    def path(
        self, source: Source, ids: Any, prompt: int, output: int, *, full_only: bool = False
    ) -> PrefixPath:
        """The path of a request.

        There is one id for every block, also for a last one that is not full, or none for that;
        its tokens are nobody else's then. With ``full_only`` that last id means nothing, there
        may be fewer ids than blocks, and more. Raises `InputError` for anything else.
        """
        if type(ids) is not list or set(map(type, ids)) - {int}:
            raise source.error(f"hash_ids: expected a list of whole numbers, got {shortened(ids)}")
        full, partial = divmod(prompt, self.block_size)
        if full_only:
            ids = ids[:full]
        elif len(ids) not in {full, full + bool(partial)}:
            raise source.error(
                f"hash_ids: expected {full + bool(partial)} blocks of {self.block_size} for "
                f"{prompt} tokens, got {len(ids)}; block_size=N sets another size"
            )
        if ids and not -(2**63) <= min(ids) <= max(ids) < 2**63:
            raise source.error(f"hash_ids: expected numbers of 64 bits, got {shortened(ids)}")
        blocks = self._tree.path(ids)
        shared = tuple((b, min(end * self.block_size, prompt)) for b, end in blocks)
        return (*shared, (next(self._outputs), prompt + output))
