"""Tensor parallelism: the part of a model that each of several devices holds.

Megatron-LM's division (Shoeybi et al. 2019, section 3) with vLLM's rules for what does not divide
(``linear.py``, ``vocab_parallel_embedding.py``, ``mamba_mixer2.py``): heads, feed-forward widths
and the vocabulary are divided; heads of K and V, and groups of a recurrent layer, are repeated
where there are fewer of them than devices; what MLA compresses, routers and small matrices beside
(`LayerSpec.others`) are on every device. All devices do the same at the same time, so one of them
stands for all.
"""

from __future__ import annotations

from dataclasses import replace

from sim.layers import AttentionSpec, FeedForwardSpec, LayerSpec
from sim.model import ModelSpec
from sim.state import StateSpec
from workloads.errors import InputError


def shard_of(model: ModelSpec, devices: int) -> ModelSpec:
    """What one of ``devices`` devices holds of ``model``.

    Raises `InputError` where something cannot be divided.
    """
    if devices == 1:
        return model
    try:
        parts = {layer: _layer(layer, devices) for layer in set(model.layers)}
    except InputError as error:
        raise InputError(f"{model.name} on {devices} devices: {error}") from error
    return replace(
        model,
        layers=tuple(parts[layer] for layer in model.layers),
        vocab=-(-model.vocab // devices),
        unread=-(-model.unread // devices),
    )


def all_reduces_of(model: ModelSpec) -> int:
    """All-reduces of one forward pass: the embedding's, and one behind every part of a layer."""
    text = [layer for layer in model.layers if layer not in model.image_layers]
    parts = ((layer.attention, layer.state, layer.feed_forward) for layer in text)
    return 1 + sum(part is not None for layer in parts for part in layer)


def _layer(layer: LayerSpec, n: int) -> LayerSpec:
    return LayerSpec(
        attention=_attention(layer.attention, n) if layer.attention else None,
        state=_state(layer.state, n) if layer.state else None,
        feed_forward=_feed_forward(layer.feed_forward, n) if layer.feed_forward else None,
        others=layer.others,
    )


def _attention(whole: AttentionSpec, n: int) -> AttentionSpec:
    return replace(
        whole,
        heads=_divided("attention heads", whole.heads, n),
        kv_heads=_divided_or_repeated("heads of K and V", whole.kv_heads, n),
    )


def _state(whole: StateSpec, n: int) -> StateSpec:
    if whole.kind == "rwkv":
        raise InputError("states of RWKV are not divided")
    return replace(
        whole,
        d_inner=_divided("channels of the recurrent state", whole.d_inner, n),
        heads=whole.heads and _divided("heads of the recurrent state", whole.heads, n),
        groups=whole.groups and _divided_or_repeated("groups of the state", whole.groups, n),
    )


def _feed_forward(whole: FeedForwardSpec, n: int) -> FeedForwardSpec:
    return replace(
        whole,
        intermediate=_divided("feed-forward width", whole.intermediate, n),
        shared=_divided("width of the shared expert", whole.shared, n),
    )


def _divided(what: str, total: int, n: int) -> int:
    if total % n:
        raise InputError(f"{what} ({total}) must be a multiple of the number of devices")
    return total // n


def _divided_or_repeated(what: str, total: int, n: int) -> int:
    if total % n and n % total:
        raise InputError(f"{what} ({total}) must divide the number of devices or be its multiple")
    return max(1, total // n)
