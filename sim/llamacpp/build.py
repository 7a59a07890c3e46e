"""Which memory module a context gets (``llama_model::create_memory``)."""

from __future__ import annotations

from dataclasses import dataclass

from sim.llamacpp.geometry import AttentionGeometry, CacheGeometry
from sim.llamacpp.hybrid import HybridCache
from sim.llamacpp.iswa import ISWACache
from sim.llamacpp.kv_cache import KVCache
from sim.llamacpp.memory import Memory
from sim.llamacpp.recurrent import RecurrentCache
from sim.llamacpp.sizes import ContextParams, ContextSizes, rows_of, swa_cells
from sim.llamacpp.window import UNBOUNDED, Window


@dataclass(frozen=True, slots=True)
class Caches:
    """What a context keeps.

    memory: the face of it all. attention: the caches with K and V rows behind it, by name (``kv``,
    or ``base`` and ``swa``). recurrent: that of the recurrent states, if there is one.
    """

    memory: Memory
    attention: dict[str, KVCache]
    recurrent: RecurrentCache | None = None


def caches_for(geometry: CacheGeometry, params: ContextParams, sizes: ContextSizes) -> Caches:
    """The caches of a context with these sizes, empty."""
    caches: dict[str, KVCache] = {}

    def cache(name: str, of: AttentionGeometry, cells: int, window: Window = UNBOUNDED) -> KVCache:
        caches[name] = KVCache(
            name,
            rows_of(of, params),
            size=cells,
            n_stream=sizes.n_stream,
            n_seq_max=sizes.n_seq_max,
            window=window,
            slots=params.slots,
            defrag=params.defrag,
            strict=params.strict,
        )
        return caches[name]

    attention: KVCache | ISWACache | None = None
    if geometry.swa is not None:
        base = cache("base", geometry.base, sizes.n_ctx_seq)
        cells = swa_cells(geometry.window.n, params, sizes)
        swa = cache("swa", geometry.swa, cells, geometry.window)
        attention = ISWACache(base, swa, unified=params.kv_unified)
    elif geometry.full is not None:
        attention = cache("kv", geometry.full, sizes.n_ctx_seq)
    if geometry.recurrent is None:
        assert attention is not None
        return Caches(attention, caches)
    recurrent = RecurrentCache(
        geometry.recurrent,
        n_seq_max=sizes.n_seq_max,
        n_rs_seq=params.n_rs_seq,
        sequential=attention is None or sizes.n_stream > 1,
        strict=params.strict,
    )
    memory = recurrent if attention is None else HybridCache(attention, recurrent)
    return Caches(memory, caches, recurrent)
