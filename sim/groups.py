"""Layer groups: the layers of a model that share a cache geometry."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from sim.dtypes import KVType, kv_type
from sim.layers import CROSS, WINDOWED, AttentionSpec, LayerSpec
from sim.state import StateSpec
from workloads.errors import InputError

_STATE_ELEMENT_BYTES = 4
_GROUP_ORDER = ("full", *WINDOWED, "recurrent")


@dataclass(frozen=True)
class LayerGroup:
    """Layers of one cache geometry.

    kind: ``full``, ``swa``, ``chunked`` or ``recurrent``. window: tokens of the window or chunk,
    0 without one. layer_ids: the layers, rising. heads, kv_heads: 0 in a recurrent group; 1 KV
    head with MLA, whose heads share one latent. k_elements, v_elements: what a token caches in
    one layer. conv_elements, state_elements: what a sequence keeps in one recurrent layer.
    pair_flops: of one query against one cached token, in one layer. borrowers: layers that attend
    to what these have cached and cache nothing, rising.
    """

    kind: str
    layer_ids: tuple[int, ...]
    window: int = 0
    heads: int = 0
    kv_heads: int = 0
    k_elements: int = 0
    v_elements: int = 0
    conv_elements: int = 0
    state_elements: int = 0
    pair_flops: int = 0
    borrowers: tuple[int, ...] = ()

    @property
    def layers(self) -> int:
        """Number of layers that cache."""
        return len(self.layer_ids)

    @property
    def attending(self) -> int:
        """Number of layers that attend to what is cached."""
        return len(self.layer_ids) + len(self.borrowers)

    def k_bytes(self, kind: str | KVType) -> int:
        """Bytes of K of one token over all layers of the group."""
        return self.layers * kv_type(kind).bytes_of(self.k_elements)

    def v_bytes(self, kind: str | KVType) -> int:
        """Bytes of V of one token over all layers of the group."""
        return self.layers * kv_type(kind).bytes_of(self.v_elements)

    def cell_bytes(self, kv_type_k: str | KVType, kv_type_v: str | KVType | None = None) -> int:
        """Bytes of K and V of one token over all layers; V has K's type unless told.

        0 in a recurrent group. Raises `InputError` where a row is not made of whole blocks.
        """
        return self.k_bytes(kv_type_k) + self.v_bytes(kv_type_k if kv_type_v is None else kv_type_v)

    @property
    def conv_bytes(self) -> int:
        """Bytes of the convolutions' memory (f32) of one sequence over all layers."""
        return self.layers * _STATE_ELEMENT_BYTES * self.conv_elements

    @property
    def scan_bytes(self) -> int:
        """Bytes of the scans' state (f32) of one sequence over all layers."""
        return self.layers * _STATE_ELEMENT_BYTES * self.state_elements

    @property
    def state_bytes(self) -> int:
        """Bytes of the recurrent state of one sequence over all layers."""
        return self.conv_bytes + self.scan_bytes


def grouped(layers: Iterable[LayerSpec], windowed: bool = True) -> tuple[LayerGroup, ...]:
    """The groups of ``layers``; see `sim.model.ModelSpec.groups`.

    Layers that attend to images (cross-attention) cache no tokens of the text and are in none.
    Raises `InputError` for a layer that borrows K and V which no layer before it has.
    """
    found: dict[LayerGroup, list[int]] = {}
    borrowers: dict[LayerGroup, list[int]] = {}
    for index, layer in enumerate(layers):
        if layer.attention is not None and layer.attention.kind != CROSS:
            group = _attention_group(layer.attention, windowed)
            if layer.attention.borrows and group not in found:
                raise InputError(f"layer {index} borrows K and V that no layer before it has")
            kept = borrowers if layer.attention.borrows else found
            kept.setdefault(group, []).append(index)
        if layer.state is not None:
            found.setdefault(_state_group(layer.state), []).append(index)
    groups = (
        replace(group, layer_ids=tuple(ids), borrowers=tuple(borrowers.get(group, ())))
        for group, ids in found.items()
    )
    return tuple(sorted(groups, key=lambda group: _GROUP_ORDER.index(group.kind)))


def _attention_group(attention: AttentionSpec, windowed: bool) -> LayerGroup:
    return LayerGroup(
        kind=attention.kind if windowed else "full",
        layer_ids=(),
        window=(attention.window or 0) if windowed else 0,
        heads=attention.heads,
        kv_heads=1 if attention.latent is not None else attention.kv_heads,
        k_elements=attention.k_elements,
        v_elements=attention.v_elements,
        pair_flops=attention.pair_flops,
    )


def _state_group(state: StateSpec) -> LayerGroup:
    return LayerGroup(
        kind="recurrent",
        layer_ids=(),
        conv_elements=state.conv_elements,
        state_elements=state.state_elements,
    )
