"""Layers of older Hugging Face families, which name their fields in their own ways."""

from __future__ import annotations

from sim.layers import AttentionSpec, FeedForwardSpec, LayerSpec
from sim.model_files.hf_fields import Fields

GPT_NAMES = {
    "hidden_size": "n_embd",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "max_position_embeddings": "n_positions",
}
"""What GPT-2 and its successors call the fields that all others share."""

BLOOM_NAMES = {"num_hidden_layers": "n_layer", "num_attention_heads": "n_head"}
MPT_NAMES = {
    "hidden_size": "d_model",
    "num_hidden_layers": "n_layers",
    "num_attention_heads": "n_heads",
    "max_position_embeddings": "max_seq_len",
}
"""What MPT and DBRX call them."""

CHATGLM_NAMES = {
    "num_hidden_layers": "num_layers",
    "vocab_size": "padded_vocab_size",
    "max_position_embeddings": "seq_length",
    "intermediate_size": "ffn_hidden_size",
    "head_dim": "kv_channels",
}


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


def bloom(f: Fields) -> tuple[LayerSpec, ...]:
    """BLOOM: as many heads of K and V as of queries."""
    return _alike(f, f.integer("num_attention_heads"), "ffn_hidden_size")


def mpt(f: Fields) -> tuple[LayerSpec, ...]:
    """MPT, whose ``attn_config`` may name fewer heads of K and V."""
    heads = f.integer("num_attention_heads")
    inner = f.inner("attn_config") if "attn_config" in f else Fields({}, f.where)
    kv_heads = 1 if inner.table.get("attn_type") == "multiquery_attention" else heads
    width = f.integer("expansion_ratio", 4) * f.integer("hidden_size")
    wide = Fields(f.table | {"width": width}, f.where)
    return _alike(wide, inner.integer("kv_n_heads", kv_heads), "width")


def dbrx(f: Fields) -> tuple[LayerSpec, ...]:
    """DBRX: experts on every layer."""
    heads, hidden = f.integer("num_attention_heads"), f.integer("hidden_size")
    size, inner = hidden // max(heads, 1), f.inner("ffn_config")
    layer = LayerSpec(
        attention=AttentionSpec(
            heads=heads,
            kv_heads=f.inner("attn_config").integer("kv_n_heads"),
            head_dim_k=size,
            head_dim_v=size,
        ),
        feed_forward=FeedForwardSpec(
            intermediate=inner.integer("ffn_hidden_size"),
            experts=inner.integer("moe_num_experts"),
            active_experts=inner.integer("moe_top_k"),
        ),
    )
    return (layer,) * f.layers()


def chatglm(f: Fields) -> tuple[LayerSpec, ...]:
    """ChatGLM, and GLM-4 in its own code: groups of heads with ``multi_query_attention``."""
    heads = f.integer("num_attention_heads")
    grouped = f.flag("multi_query_attention", False)
    size = f.integer("head_dim", f.integer("hidden_size") // max(heads, 1))
    layer = LayerSpec(
        attention=AttentionSpec(
            heads=heads,
            kv_heads=f.integer("multi_query_group_num") if grouped else heads,
            head_dim_k=size,
            head_dim_v=size,
        ),
        feed_forward=FeedForwardSpec(intermediate=f.integer("intermediate_size")),
    )
    return (layer,) * f.layers()


def _alike(f: Fields, kv_heads: int, width: str) -> tuple[LayerSpec, ...]:
    hidden, heads = f.integer("hidden_size"), f.integer("num_attention_heads")
    size = hidden // max(heads, 1)
    layer = LayerSpec(
        attention=AttentionSpec(heads=heads, kv_heads=kv_heads, head_dim_k=size, head_dim_v=size),
        feed_forward=FeedForwardSpec(intermediate=f.integer(width, 4 * hidden), gated=False),
    )
    return (layer,) * f.layers()
