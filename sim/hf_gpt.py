"""Layers of older Hugging Face families, which name their fields in their own ways."""

from __future__ import annotations

from sim.hf_fields import Fields
from sim.layers import AttentionSpec, FeedForwardSpec, LayerSpec

GPT_NAMES = {
    "hidden_size": "n_embd",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "max_position_embeddings": "n_positions",
}
"""What GPT-2 and its successors call the fields that all others share."""


def gpt(f: Fields) -> tuple[LayerSpec, ...]:
    """GPT-2, and StarCoder with one head of K and V for all (``multi_query``)."""
    heads = f.integer("num_attention_heads")
    return _alike(f, 1 if f.flag("multi_query", False) else heads, "n_inner")


def falcon(f: Fields) -> tuple[LayerSpec, ...]:
    """Falcon: one head of K and V, or groups of them from the 40 B on."""
    heads = f.integer("num_attention_heads")
    if f.flag("new_decoder_architecture", False):
        return _alike(f, f.integer("num_kv_heads", heads), "ffn_hidden_size")
    return _alike(f, 1 if f.flag("multi_query", True) else heads, "ffn_hidden_size")


def _alike(f: Fields, kv_heads: int, width: str) -> tuple[LayerSpec, ...]:
    hidden, heads = f.integer("hidden_size"), f.integer("num_attention_heads")
    size = hidden // max(heads, 1)
    layer = LayerSpec(
        attention=AttentionSpec(heads=heads, kv_heads=kv_heads, head_dim_k=size, head_dim_v=size),
        feed_forward=FeedForwardSpec(intermediate=f.integer(width, 4 * hidden), gated=False),
    )
    return (layer,) * f.layers()
