"""Which memory module a context gets (``llama_model::create_memory``)."""

from __future__ import annotations

from sim.llamacpp.geometry import AttentionGeometry, CacheGeometry
from sim.llamacpp.hybrid import HybridCache
from sim.llamacpp.iswa import ISWACache
from sim.llamacpp.kv_cache import KVCache
from sim.llamacpp.memory import Memory
from sim.llamacpp.recurrent import RecurrentCache
from sim.llamacpp.sizes import ContextParams, ContextSizes, rows_of, swa_cells
from sim.llamacpp.window import UNBOUNDED, Window


def memory_for(geometry: CacheGeometry, params: ContextParams, sizes: ContextSizes) -> Memory:
    """The caches of a context with these sizes, empty."""

    def cache(name: str, of: AttentionGeometry, cells: int, window: Window = UNBOUNDED) -> KVCache:
        return KVCache(
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
        return attention
    recurrent = RecurrentCache(
        geometry.recurrent,
        n_seq_max=sizes.n_seq_max,
        n_rs_seq=params.n_rs_seq,
        sequential=attention is None or sizes.n_stream > 1,
        strict=params.strict,
    )
    return recurrent if attention is None else HybridCache(attention, recurrent)
