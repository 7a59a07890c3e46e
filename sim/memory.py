"""KV memory arithmetic: how many bytes a cache takes, how many tokens fit into bytes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

from sim.checks import require_positive
from sim.dtypes import KVType
from sim.dtypes import kv_type as kv_type_of
from sim.groups import LayerGroup, grouped
from sim.layers import CROSS, AttentionSpec, LayerSpec
from sim.llamacpp.sizes import ContextParams, padded, sizes_of, swa_cells
from sim.model import NO_LIMIT, ModelSpec

Geometry: TypeAlias = "ModelSpec | Iterable[LayerSpec]"
"""A model, or just its layers where no more is known of it."""


@dataclass(frozen=True)
class MemoryRow:
    """The cache of one layer group.

    kind, window: as in `LayerGroup`, or ``cross`` and the tokens of an image. layers: how many.
    cells: tokens that each layer holds over all sequences; in a recurrent group states, one a
    sequence. bytes_k, bytes_v: over all layers; in a recurrent group of the convolution's memory
    and of the scan's state.
    """

    kind: str
    window: int
    layers: int
    cells: int
    bytes_k: int
    bytes_v: int

    @property
    def bytes(self) -> int:
        """Both together."""
        return self.bytes_k + self.bytes_v


@dataclass(frozen=True)
class MemoryReport:
    """What the caches of ``sequences`` sequences of ``context`` tokens each take."""

    context: int
    sequences: int
    rows: tuple[MemoryRow, ...]

    @property
    def bytes(self) -> int:
        """Bytes of all caches."""
        return sum(row.bytes for row in self.rows)


def plain_layers(layers: int, kv_heads: int, head_dim: int) -> tuple[LayerSpec, ...]:
    """Layers of full attention of which only the cache geometry is known."""
    require_positive(layers=layers)
    attention = AttentionSpec(
        heads=kv_heads, kv_heads=kv_heads, head_dim_k=head_dim, head_dim_v=head_dim
    )
    return (LayerSpec(attention=attention),) * layers


def memory_report(
    model: Geometry,
    context: int,
    sequences: int = 1,
    ubatch: int = 512,
    kv_type: str | KVType = "f16",
    kv_type_v: str | KVType | None = None,
    swa_full: bool = False,
    block_size: int | None = None,
    unified: bool = False,
    images: int = 0,
) -> MemoryReport:
    """The caches for ``sequences`` sequences of up to ``context`` tokens each.

    Without ``block_size`` they are sized as llama.cpp does (`sim.llamacpp.sizes`), ``ubatch``
    being its physical batch; ``unified`` puts all sequences into one array of cells. With
    ``block_size`` they are the blocks that vLLM reserves for that many longest requests,
    ``ubatch`` being the tokens of one step (``kv_cache_interface.py``,
    ``max_memory_usage_bytes``). ``swa_full`` caches windowed layers in full. ``images``: images of
    each sequence, whose K and V the layers with cross-attention keep. V has K's type unless told.
    Raises `InputError`.
    """
    require_positive(context=context, sequences=sequences, ubatch=ubatch, block_size=block_size)
    rows = []
    for group in _groups(model):
        if group.kind == "recurrent":
            rows.append(
                _row(group, sequences, sequences * group.conv_bytes, sequences * group.scan_bytes)
            )
            continue
        if block_size is None:
            cells = _llama_cells(group, context, sequences, ubatch, swa_full, unified)
        else:
            cells = sequences * _block_cells(group, context, ubatch, swa_full, block_size)
        bytes_k = cells * group.k_bytes(kv_type)
        bytes_v = cells * group.v_bytes(kv_type if kv_type_v is None else kv_type_v)
        rows.append(_row(group, cells, bytes_k, bytes_v))
    rows += _image_rows(_layers(model), images * sequences, kv_type, kv_type_v)
    return MemoryReport(context, sequences, tuple(rows))


def tokens_that_fit(
    model: Geometry,
    n_bytes: int,
    sequences: int = 1,
    ubatch: int = 512,
    kv_type: str | KVType = "f16",
    kv_type_v: str | KVType | None = None,
    swa_full: bool = False,
    block_size: int | None = None,
    unified: bool = False,
    images: int = 0,
) -> int | None:
    """The longest context (tokens of each sequence) whose `memory_report` is within ``n_bytes``.

    0 where not even one token fits; None where the bytes suffice for any context, since nothing
    that is cached grows with it. Raises `InputError`.
    """
    layers = _layers(model)

    def fits(context: int) -> bool:
        report = memory_report(
            *(layers, context, sequences, ubatch, kv_type, kv_type_v, swa_full, block_size),
            *(unified, images),
        )
        return report.bytes <= n_bytes

    if fits(NO_LIMIT):
        return None
    fitting, too_long = 0, NO_LIMIT
    while too_long - fitting > 1:
        middle = (fitting + too_long) // 2
        if fits(middle):
            fitting = middle
        else:
            too_long = middle
    return fitting


def _groups(model: Geometry) -> tuple[LayerGroup, ...]:
    return model.groups() if isinstance(model, ModelSpec) else grouped(model)


def _layers(model: Geometry) -> tuple[LayerSpec, ...]:
    return model.layers if isinstance(model, ModelSpec) else tuple(model)


def _image_rows(
    layers: Iterable[LayerSpec],
    images: int,
    type_k: str | KVType,
    type_v: str | KVType | None,
) -> list[MemoryRow]:
    """One row for all layers alike that attend to images."""
    crossing = Counter(layer.attention for layer in layers if layer.kind == CROSS)
    rows = []
    for part, n in crossing.items() if images else ():
        if part is not None:
            cells = images * (part.window or 0)
            bytes_k = n * cells * kv_type_of(type_k).bytes_of(part.k_elements)
            bytes_v = n * cells * kv_type_of(type_v or type_k).bytes_of(part.v_elements)
            rows.append(MemoryRow(CROSS, part.window or 0, n, cells, bytes_k, bytes_v))
    return rows


def _row(group: LayerGroup, cells: int, bytes_k: int, bytes_v: int) -> MemoryRow:
    return MemoryRow(group.kind, group.window, group.layers, cells, bytes_k, bytes_v)


def _llama_cells(
    group: LayerGroup, context: int, sequences: int, ubatch: int, swa_full: bool, unified: bool
) -> int:
    params = ContextParams(
        n_ctx=context * sequences,
        n_batch=max(2048, ubatch),
        n_ubatch=ubatch,
        n_seq_max=sequences,
        kv_unified=unified,
        swa_full=swa_full,
    )
    sizes = sizes_of(params, params.n_ctx)
    return sizes.n_stream * (
        swa_cells(group.window, params, sizes) if group.window else sizes.n_ctx_seq
    )


def _block_cells(
    group: LayerGroup, context: int, step_tokens: int, swa_full: bool, block_size: int
) -> int:
    if not group.window or swa_full:
        return padded(context, block_size)
    if group.kind == "chunked":
        return padded(min(group.window + step_tokens, context), block_size)
    # The window seldom starts with a block, so it can reach into one block more.
    return padded(min(group.window - 1 + step_tokens, context), block_size) + block_size
