"""Gemma 3n and 4: layers that use the K and V of others, inputs of a layer's own.

Rules and defaults are those of ``transformers`` (``gemma3n``, ``gemma4``): the last
``num_kv_shared_layers`` layers attend to what the last layer of their kind before them has cached.
"""

from __future__ import annotations

from dataclasses import replace

from sim.layers import FeedForwardSpec, LayerSpec
from sim.model_files.hf_attention import FULL, SLIDING, attention, every_nth_full, layer_kinds
from sim.model_files.hf_fields import Fields
from workloads.errors import InputError

GEMMA3N_DEFAULTS = {
    "vocab_size": 262400,
    "hidden_size": 2048,
    "intermediate_size": 16384,
    "num_hidden_layers": 35,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 256,
    "sliding_window": 512,
    "max_position_embeddings": 32768,
    "vocab_size_per_layer_input": 262144,
    "hidden_size_per_layer_input": 256,
    "altup_num_inputs": 4,
    "num_kv_shared_layers": 15,
    "laurel_rank": 64,
}
GEMMA4_DEFAULTS = {
    "vocab_size": 262144,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "global_head_dim": 512,
    "sliding_window": 512,
    "max_position_embeddings": 131072,
    "vocab_size_per_layer_input": 262144,
    "hidden_size_per_layer_input": 256,
}


def gemma3n(f: Fields) -> tuple[LayerSpec, ...]:
    """Every fifth layer in full; several streams of activations that are mixed around a layer."""
    kinds = layer_kinds(f, every_nth_full(5), (FULL, SLIDING))
    own = _layers_with_own(f)
    beside = streams_of(f.integer("hidden_size"), f.integer("altup_num_inputs"))
    beside += 2 * f.integer("hidden_size") * f.integer("laurel_rank")
    return with_ends(
        [
            LayerSpec(
                attention=replace(attention(f, kind), borrows=layer >= own),
                feed_forward=FeedForwardSpec(intermediate=_width(f, layer)),
                others=beside + _own_input(f),
            )
            for layer, kind in enumerate(kinds)
        ],
        _own_inputs(f),
        (f.integer("altup_num_inputs") - 1) * f.integer("hidden_size") ** 2,
    )


def gemma3n_unread(f: Fields) -> int:
    """The table of the layers' own inputs, and projections that layers which borrow do not use."""
    borrowing = f.layers() - _layers_with_own(f)
    spec = attention(f)
    return _table(f) + borrowing * f.integer("hidden_size") * (spec.k_elements + spec.v_elements)


def gemma4(f: Fields) -> tuple[LayerSpec, ...]:
    """Larger heads on full layers, whose V may be their K; experts beside a dense feed-forward."""
    if "per_layer_config" in f:
        raise InputError(f"{f.where}: field 'per_layer_config' is not read")
    kinds = layer_kinds(f, every_nth_full(6), (FULL, SLIDING))
    kinds[-1] = FULL
    own, same = _layers_with_own(f), f.flag("attention_k_eq_v", False)
    heads = f.integer("num_key_value_heads")
    full = Fields(
        f.table
        | {
            "head_dim": f.integer("global_head_dim"),
            "num_key_value_heads": f.integer("num_global_key_value_heads", heads)
            if same
            else heads,
        },
        f.where,
    )
    layers = []
    for layer, kind in enumerate(kinds):
        spec = replace(attention(full), k_is_v=same) if kind == FULL else attention(f, kind)
        layers.append(
            LayerSpec(
                attention=replace(spec, borrows=layer >= own),
                feed_forward=_feed_forward(f, layer >= own),
                others=_own_input(f),
            )
        )
    return with_ends(layers, _own_inputs(f), 0)


def gemma4_unread(f: Fields) -> int:
    """The table of the layers' own inputs."""
    return _table(f)


def streams_of(hidden: int, streams: int) -> int:
    """Elements that mix ``streams`` streams around a layer (AltUp): predict, correct, weigh."""
    return streams**3 + streams**2 + hidden * streams


def with_ends(layers: list[LayerSpec], before: int, around: int) -> tuple[LayerSpec, ...]:
    """The layers; the first has ``before`` and ``around`` elements more, the last ``around``."""
    layers[0] = replace(layers[0], others=layers[0].others + before + around)
    layers[-1] = replace(layers[-1], others=layers[-1].others + around)
    return tuple(layers)


def _layers_with_own(f: Fields) -> int:
    """Layers, from the first, that have K and V of their own; all where too many would share."""
    layers = f.layers()
    own = layers - f.integer("num_kv_shared_layers", 0)
    return own if own > 0 else layers


def _width(f: Fields, layer: int) -> int:
    widths = f.table.get("intermediate_size")
    if not isinstance(widths, list):
        return f.integer("intermediate_size")
    if len(widths) != f.layers():
        raise InputError(
            f"{f.where}: field 'intermediate_size' has {len(widths)} entries, not {f.layers()}"
        )
    return f.integers("intermediate_size", [])[layer]


def _feed_forward(f: Fields, borrows: bool) -> FeedForwardSpec:
    width = f.integer("intermediate_size")
    if borrows and f.flag("use_double_wide_mlp", False):
        width *= 2
    if not f.flag("enable_moe_block", False):
        return FeedForwardSpec(intermediate=width)
    return FeedForwardSpec(
        intermediate=f.integer("moe_intermediate_size"),
        experts=f.integer("num_experts"),
        active_experts=f.integer("top_k_experts"),
        shared=width,
    )


def _own_input(f: Fields) -> int:
    """Elements that let a layer's own input in and back."""
    return 2 * f.integer("hidden_size") * f.integer("hidden_size_per_layer_input")


def _own_inputs(f: Fields) -> int:
    """Elements that make the layers' own inputs of the embedding."""
    return f.integer("hidden_size") * f.layers() * f.integer("hidden_size_per_layer_input")


def _table(f: Fields) -> int:
    """Elements of the table of the layers' own inputs."""
    own = f.layers() * f.integer("hidden_size_per_layer_input")
    return f.integer("vocab_size_per_layer_input") * own
