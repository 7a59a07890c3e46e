"""How bytes are divided between the slots of a radix cache."""

from __future__ import annotations

from typing import NamedTuple

from sim.budget import Budget
from sim.eviction.cache import evictor_of
from sim.model import LayerGroup
from sim.radix.manager import RadixManager
from sim.radix.paired_pool import PairedPool
from sim.radix.pool import pool_of
from sim.radix.tree import RadixTree
from sim.radix.windowed_tree import WindowedTree
from workloads.errors import InputError


class Pools(NamedTuple):
    """pages: of layers that are kept in full. window_pages: of layers with a window of ``window``
    tokens, 0 where they are kept in full too.
    """

    pages: int
    window_pages: int
    window: int


def pools_of(
    budget: Budget, groups: tuple[LayerGroup, ...], page_size: int, windowed: bool, ratio: float
) -> Pools:
    """The pools for the bytes of ``budget``.

    Layers with a window get slots of their own if they are ``windowed`` and there are others too,
    and all have the same window: ``ratio`` of them for every slot of the others (SGLang's
    ``swa_full_tokens_ratio``). Raises `InputError` where the bytes hold no page.
    """
    windows = {group.window for group in groups if group.kind == "swa"}
    cells = {
        swa: sum(budget.cell_bytes_of(g) for g in groups if (g.kind == "swa") == swa)
        for swa in (False, True)
    }
    apart = windowed and len(windows) == 1 and cells[False] > 0
    tokens = int(budget.bytes / (cells[False] + (ratio if apart else 1) * cells[True]))
    pages, window_pages = tokens // page_size, int(ratio * tokens) // page_size if apart else 0
    if not pages or (apart and not window_pages):
        raise InputError(
            f"{budget.bytes} bytes of K/V memory hold no page of {page_size} tokens of"
            f" {budget.model.name} ({sum(cells.values())} bytes each)"
        )
    return Pools(pages, window_pages, windows.pop() if apart else 0)


def manager_of(pools: Pools, page_size: int, eviction: str, caching: bool) -> RadixManager:
    """A manager over empty pools; raises `InputError` for an unknown eviction policy."""
    evictor = evictor_of(eviction, pools.pages * page_size)
    pool = pool_of(pools.pages, page_size)
    if not pools.window:
        return RadixManager(pool, RadixTree(pool, page_size, evictor), caching)
    pair = PairedPool(pool, pool_of(pools.window_pages, page_size))
    other = evictor_of(eviction, pools.window_pages * page_size)
    tree = WindowedTree(pair, page_size, evictor, other, pools.window)
    return RadixManager(pair, tree, caching, pools.window)
