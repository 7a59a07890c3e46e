"""Whose slots the pages of a radix cache are: what memory maps show."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from sim.owners import FREE, SHARED, UNUSED
from sim.radix.manager import RadixManager
from sim.radix.node import Node
from sim.radix.paired_pool import NO_PAGE
from sim.radix.tree import NO_PAGES
from sim.radix.windows import WindowCounts
from sim.step import Cells


def owners_of(
    manager: RadixManager, lengths: Mapping[int, int], windows: WindowCounts | None = None
) -> Cells:
    """The owner of every slot, page after page; with ``windows``, of the slots of theirs.

    lengths: tokens of every holding, by sequence id. What is in the tree and locked by several
    sequences is ``SHARED``, what nobody has locked is ``FREE``, and ``UNUSED`` is what a sequence
    has pages for and no token.
    """
    size = manager.page_size
    pages = manager.pool.size if windows is None else windows.pages
    owners = np.full((pages, size), FREE, dtype=np.int64)
    for owner, holding in manager.holdings.items():
        own = holding.own()
        names = np.full((len(own), size), UNUSED, dtype=np.int64)
        names.ravel()[: lengths[owner] - holding.node.end] = owner
        if windows is not None:
            own = windows.pages_of(own)
            there = own != NO_PAGE
            own, names = own[there], names[there]
        owners[own] = names
        alone, together = [NO_PAGES], [NO_PAGES]
        for node in manager.tree.path_to(holding.node):
            if windows is None or _is_held(node):
                (alone if node.locks == 1 else together).append(node.pages)
        for name, edges in ((owner, alone), (SHARED, together)):
            held = np.concatenate(edges)
            owners[held if windows is None else windows.pages_of(held)] = name
    return owners.ravel()


def _is_held(node: Node) -> bool:
    """Whether somebody has locked the window slots of an edge, too."""
    return not node.tombstone and node.window_locks > 0
