"""Layers of the Hugging Face families that are made of attention alone.

A family that deviates from the plain decoder has a function for what differs: which layers have a
window, how K and V are compressed. The rules, and the defaults of fields that published files
leave out, are those of the families' own classes in ``transformers``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from sim.layers import CROSS, AttentionSpec, FeedForwardSpec, LayerSpec
from sim.model_files.hf_feed_forward import gated, late_experts
from sim.model_files.hf_fields import Fields
from workloads.errors import InputError

FULL, SLIDING, CHUNKED = "full_attention", "sliding_attention", "chunked_attention"

KindOf = Callable[[Fields, int], str]
FeedForwardOf = Callable[[Fields, int], FeedForwardSpec]


def attention(f: Fields, kind: str = FULL) -> AttentionSpec:
    """Grouped-query attention; heads of K and V default to all heads, their size to an equal share.

    Both defaults are the plain decoder's own.
    """
    heads = f.integer("num_attention_heads")
    if "head_dim" not in f and f.integer("hidden_size") % max(heads, 1):
        raise InputError(
            f"{f.where}: field 'head_dim' is missing and hidden_size is no multiple of "
            "num_attention_heads"
        )
    head_dim = f.integer("head_dim", f.integer("hidden_size") // max(heads, 1))
    spec = AttentionSpec(
        heads=heads,
        kv_heads=f.integer("num_key_value_heads", heads),
        head_dim_k=head_dim,
        head_dim_v=head_dim,
    )
    if kind == SLIDING:
        return replace(spec, kind="swa", window=f.integer("sliding_window"))
    if kind == CHUNKED:
        return replace(spec, kind="chunked", window=f.integer("attention_chunk_size"))
    return spec


def layer_kinds(f: Fields, kind_of: KindOf, known: tuple[str, ...]) -> list[str]:
    """The kind of each layer: the field ``layer_types`` where there is one, else ``kind_of``."""
    layers = f.layers()
    if "layer_types" not in f:
        return [kind_of(f, layer) for layer in range(layers)]
    kinds = f.words("layer_types")
    if len(kinds) != layers:
        raise InputError(f"{f.where}: field 'layer_types' has {len(kinds)} entries, not {layers}")
    for kind in kinds:
        if kind not in known:
            raise InputError(f"{f.where}: field 'layer_types' has the unknown kind {kind!r}")
    return kinds


def decoder(
    kind_of: KindOf, feed_forward_of: FeedForwardOf
) -> Callable[[Fields], tuple[LayerSpec, ...]]:
    """Reader of a family whose layers are attention and feed-forward."""

    def layers_of(f: Fields) -> tuple[LayerSpec, ...]:
        kinds = layer_kinds(f, kind_of, (FULL, SLIDING, CHUNKED))
        return tuple(
            LayerSpec(attention=attention(f, kind), feed_forward=feed_forward_of(f, layer))
            for layer, kind in enumerate(kinds)
        )

    return layers_of


# Which layers have a window, where the config does not list them.


def all_full(f: Fields, layer: int) -> str:
    """No windows."""
    del f, layer
    return FULL


def all_sliding(f: Fields, layer: int) -> str:
    """A window on every layer if there is one (Mistral, Mixtral, Phi-3, StarCoder2)."""
    del layer
    return SLIDING if f.integer("sliding_window", 0) else FULL


def upper_sliding(f: Fields, layer: int) -> str:
    """A window from layer ``max_window_layers`` on, if switched on (Qwen2, Qwen3)."""
    if f.flag("use_sliding_window", False) and layer >= f.integer("max_window_layers"):
        return all_sliding(f, layer)
    return FULL


def every_nth_full(n: int) -> KindOf:
    """Windows but on every n-th layer; ``sliding_window_pattern`` overrides the family's n."""

    def kind_of(f: Fields, layer: int) -> str:
        pattern = f.integer("_sliding_window_pattern", f.integer("sliding_window_pattern", n))
        return SLIDING if (layer + 1) % max(pattern, 1) else FULL

    return kind_of


def llama4_kind(f: Fields, layer: int) -> str:
    """Chunks on the layers with rotary positions, which are all but every fourth."""
    interval = max(f.integer("no_rope_layer_interval", 4), 1)
    rotary = f.integers("no_rope_layers", [])
    if len(rotary) > layer:
        return CHUNKED if rotary[layer] else FULL
    return CHUNKED if (layer + 1) % interval else FULL


def latent(f: Fields) -> AttentionSpec:
    """Multi-head latent attention."""
    rope = f.integer("qk_rope_head_dim")
    return AttentionSpec(
        heads=f.integer("num_attention_heads"),
        kv_heads=f.integer("num_attention_heads"),
        head_dim_k=f.integer("qk_nope_head_dim") + rope,
        head_dim_v=f.integer("v_head_dim"),
        latent=f.integer("kv_lora_rank"),
        rope=rope,
        q_latent=f.integer("q_lora_rank") if "q_lora_rank" in f else None,
    )


def deepseek(f: Fields) -> tuple[LayerSpec, ...]:
    """Multi-head latent attention; experts after the first dense layers (DeepSeek V2, V3)."""
    compressed = latent(f)
    return tuple(
        LayerSpec(attention=compressed, feed_forward=late_experts(f, layer))
        for layer in range(f.layers())
    )


def exaone4_kind(f: Fields, layer: int) -> str:
    """Windows, if there are any, as a word like LLLG says, or but on every n-th layer."""
    pattern = f.table.get("sliding_window_pattern", 4)
    if "sliding_window" not in f:
        return FULL
    if isinstance(pattern, str) and pattern:
        return SLIDING if pattern[layer % len(pattern)] == "L" else FULL
    return every_nth_full(4)(f, layer)


def mllama(f: Fields) -> tuple[LayerSpec, ...]:
    """Llama 3.2 Vision: some layers attend to the tokens of an image instead."""
    crossing = f.integers("cross_attention_layers", [])
    text, tokens = attention(f), f.integer("image_tokens")
    cross = replace(text, kind=CROSS, window=tokens)
    return tuple(
        LayerSpec(attention=cross if layer in crossing else text, feed_forward=gated(f, layer))
        for layer in range(f.layers())
    )


def image_tokens(vision: Fields) -> int:
    """Tokens of one image: a patch grid and a class token for each of its tiles (mllama)."""
    side = vision.integer("image_size") // max(vision.integer("patch_size"), 1)
    return vision.integer("max_num_tiles") * (side * side + 1)
