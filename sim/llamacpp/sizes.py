"""Context sizes and memory bytes, as ``llama_context`` and the caches compute them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sim.llamacpp.errors import ContextRefused, EngineAborts
from sim.llamacpp.geometry import AttentionGeometry, RecurrentGeometry

#: Most sequence ids of one context (``LLAMA_MAX_SEQ``).
MAX_SEQ = 256
#: Cells are allocated, and attention spans are cut, in multiples of this.
CELL_PAD = 256

#: ggml type -> (elements of a block, bytes of a block)
BLOCKS: dict[str, tuple[int, int]] = {
    "f32": (1, 4),
    "f16": (1, 2),
    "bf16": (1, 2),
    "q8_0": (32, 34),
    "q4_0": (32, 18),
    "q4_1": (32, 20),
    "q5_0": (32, 22),
    "q5_1": (32, 24),
    "iq4_nl": (32, 18),
}


def is_quantized(ggml_type: str) -> bool:
    """Whether rows of this type are stored in blocks with a scale."""
    return BLOCKS[ggml_type][0] > 1


def row_bytes(ggml_type: str, width: int) -> int:
    """Bytes of one row of ``width`` elements."""
    elements, size = BLOCKS[ggml_type]
    return width // elements * size


def padded(n: int, to: int = CELL_PAD) -> int:
    """``n`` rounded up to a multiple of ``to``."""
    return -(-n // to) * to


@dataclass(frozen=True, slots=True)
class Defrag:
    """When cells are moved, and how.

    threshold: share of holes above which they are. nodes: of the graph that moves the cells, which
    limits the rows of cells it can move at once (``graph_max_nodes``: 65,536 at first, from July
    2025 the larger of 1,024 and eight times the model's tensors). by_sequence: move all cells of a
    sequence together, in the order of their positions, with no limit.
    """

    threshold: float
    nodes: int = 65536
    by_sequence: bool = False

    def rows_at_once(self, layers: int) -> int:
        """Rows of cells that one graph can move: six tensors a layer for each."""
        return (self.nodes - 2 * layers) // (6 * layers)


@dataclass(frozen=True, slots=True)
class ContextParams:
    """What a user asks of a context; defaults are those of ``llama_context_default_params``.

    n_ctx, n_batch, n_ubatch: tokens. n_seq_max: sequences. n_rs_seq: recurrent snapshots kept per
    sequence for rolling back. slots: ``contiguous`` searches n consecutive cells, as the engine did
    before ``ggml_set_rows``. defrag: when and how holes between cells are closed. strict: do the
    right thing where the engine has a defect (`sim.llamacpp.defects`).
    """

    n_ctx: int = 512
    n_batch: int = 2048
    n_ubatch: int = 512
    n_seq_max: int = 1
    kv_unified: bool = False
    swa_full: bool = True
    type_k: str = "f16"
    type_v: str = "f16"
    flash_attn: bool = False
    n_rs_seq: int = 0
    slots: Literal["scattered", "contiguous"] = "scattered"
    defrag: Defrag | None = None
    strict: bool = False


@dataclass(frozen=True, slots=True)
class ContextSizes:
    """What the context then has: tokens, cells per stream and streams."""

    n_ctx: int
    n_ctx_seq: int
    n_batch: int
    n_ubatch: int
    n_seq_max: int
    n_stream: int


def context_sizes(params: ContextParams, n_ctx_train: int = 0) -> ContextSizes:
    """Sizes of the context that ``params`` ask for.

    Raises `EngineAborts` where creating it would end the process, `ContextRefused` where the engine
    returns none.
    """
    n_seq_max = max(1, params.n_seq_max)
    if n_seq_max > MAX_SEQ:
        raise ContextRefused(f"n_seq_max = {n_seq_max}: at most {MAX_SEQ} sequences")
    for given in (params.type_k, params.type_v):
        if given not in BLOCKS:
            raise ContextRefused(f"cache type {given!r}; known: {', '.join(BLOCKS)}")
    if is_quantized(params.type_v) and not params.flash_attn:
        raise ContextRefused(f"type_v = {params.type_v}: a quantised V needs flash attention")
    asked = params.n_ctx or n_ctx_train
    if asked <= 0:
        raise ContextRefused("n_ctx = 0 means the model's training context, which is not known")
    sizes = sizes_of(params, asked)
    if sizes.n_batch < n_seq_max:
        raise EngineAborts(
            f"context(n_batch={sizes.n_batch}, n_seq_max={n_seq_max})",
            "GGML_ASSERT(n_outputs_max): every sequence must be able to have an output",
        )
    return sizes


def sizes_of(params: ContextParams, asked: int) -> ContextSizes:
    """Sizes of a context of ``asked`` tokens, for any number of sequences; refuses nothing."""
    n_seq_max = max(1, params.n_seq_max)
    n_batch = min(asked, params.n_batch)
    n_ubatch = min(n_batch, params.n_ubatch or params.n_batch)
    n_ctx = padded(asked)
    unified = params.kv_unified or n_seq_max == 1
    if params.kv_unified:
        n_ctx_seq = n_ctx
    else:
        n_ctx_seq = padded(n_ctx // n_seq_max)
        n_ctx = n_ctx_seq * n_seq_max
    return ContextSizes(n_ctx, n_ctx_seq, n_batch, n_ubatch, n_seq_max, 1 if unified else n_seq_max)


def swa_cells(window: int, params: ContextParams, sizes: ContextSizes) -> int:
    """Cells per stream of the cache of layers with a window (``llama_kv_cache_iswa``).

    They hold the window of every sequence of the stream and one ubatch, but never more than the
    full cache; with ``swa_full`` as many.
    """
    if params.swa_full:
        return sizes.n_ctx_seq
    windows = sizes.n_seq_max if params.kv_unified else 1
    return padded(min(sizes.n_ctx_seq, window * windows + sizes.n_ubatch))


@dataclass(frozen=True, slots=True)
class CacheBytes:
    """Bytes of one cache's two tensors: K and V, or the recurrent R and S."""

    first: int
    second: int

    @property
    def total(self) -> int:
        """Bytes of both."""
        return self.first + self.second


@dataclass(frozen=True, slots=True)
class AttentionRows:
    """Row bytes of an attention cache: per layer and cell, one K row and one V row."""

    geometry: AttentionGeometry
    type_k: str
    type_v: str
    transposed_v: bool

    @property
    def k(self) -> int:
        """Bytes of one K row."""
        return row_bytes(self.type_k, self.geometry.k_width)

    @property
    def v(self) -> int:
        """Bytes of one V row."""
        return row_bytes(self.type_v, self.geometry.v_width)

    def bytes_of(self, cells: int) -> CacheBytes:
        """Bytes of ``cells`` cells (all streams together) over all layers."""
        rows = cells * self.geometry.layers
        return CacheBytes(rows * self.k, rows * self.v)


def recurrent_bytes(geometry: RecurrentGeometry, cells: int, n_rs_seq: int) -> CacheBytes:
    """Bytes of a recurrent cache: float32 states, ``1 + n_rs_seq`` of them a cell."""
    rows = cells * (1 + n_rs_seq) * geometry.layers
    return CacheBytes(rows * 4 * geometry.r_width, rows * 4 * geometry.s_width)


def rows_of(geometry: AttentionGeometry, params: ContextParams) -> AttentionRows:
    """The rows that ``params`` store for these layers (V transposed without flash attention)."""
    return AttentionRows(geometry, params.type_k, params.type_v, not params.flash_attn)
