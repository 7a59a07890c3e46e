"""What arrays need to know of a layer group: heads, sizes, and which tokens see which."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from backends.arrays import Array
from sim.model import LayerGroup, ModelSpec
from workloads.errors import InputError


@dataclass(frozen=True)
class RowShape:
    """One cell's K and V in one layer: ``kv_heads`` rows of ``k_dim`` and of ``v_dim`` elements."""

    kv_heads: int
    k_dim: int
    v_dim: int


@dataclass(frozen=True)
class GroupShape:
    """Attention of one layer of a group.

    heads: query heads; every ``heads / row.kv_heads`` of them share a KV head. kind, window: as
    in `sim.groups.LayerGroup`.
    """

    row: RowShape
    heads: int
    kind: str = "full"
    window: int = 0

    @property
    def scale(self) -> float:
        """What scores are multiplied with: one over the root of the key size."""
        return float(self.row.k_dim**-0.5)


def shape_of(group: LayerGroup, model: ModelSpec) -> GroupShape:
    """The shape of an attention group; `InputError` for recurrent ones and MLA, which have none.

    A latent cache keeps one row a token that is key and value at once, which stores do not.
    """
    attention = model.layers[group.layer_ids[0]].attention
    if attention is None or attention.latent is not None:
        what = "recurrent state" if attention is None else "a latent (MLA) cache"
        raise InputError(f"{model.name}: {what} has no K and V rows that could be stored")
    row = RowShape(attention.kv_heads, attention.head_dim_k, attention.head_dim_v)
    return GroupShape(row, attention.heads, group.kind, group.window)


def visible(xp: Any, shape: GroupShape, queries: Array, keys: Array) -> Array:
    """Which of ``keys`` each of ``queries`` attends to; both are positions, -1 is nobody's.

    Shape (queries, keys). Causal; with a window the last ``window`` positions, the own one
    included; with chunks the own chunk.
    """
    query, key = queries[:, None], keys[None, :]
    mask = (key >= 0) & (key <= query)
    if shape.kind == "swa":
        mask &= query - key < shape.window
    elif shape.kind == "chunked":
        mask &= query // shape.window == key // shape.window
    return mask


def first_visible(shape: GroupShape, position: int) -> int:
    """The lowest position that the token at ``position`` attends to."""
    if shape.kind == "swa":
        return max(0, position - shape.window + 1)
    if shape.kind == "chunked":
        return position // shape.window * shape.window
    return 0
