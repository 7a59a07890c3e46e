"""Feed-forward parts of the Hugging Face families, by layer."""

from __future__ import annotations

from dataclasses import replace

from sim.layers import FeedForwardSpec
from sim.model_files.hf_fields import Fields


def gated(f: Fields, layer: int) -> FeedForwardSpec:
    """Dense, three matrices."""
    del layer
    return FeedForwardSpec(intermediate=f.integer("intermediate_size"))


def ungated(f: Fields, layer: int) -> FeedForwardSpec:
    """Dense, two matrices (OPT calls the width ``ffn_dim``)."""
    del layer
    width = f.integer("ffn_dim" if "ffn_dim" in f else "intermediate_size")
    return FeedForwardSpec(intermediate=width, gated=False)


def local_experts(f: Fields, layer: int) -> FeedForwardSpec:
    """Experts on every layer, as wide as ``intermediate_size`` (Mixtral, gpt-oss)."""
    del layer
    return FeedForwardSpec(
        intermediate=f.integer("intermediate_size"),
        experts=f.integer("num_local_experts"),
        active_experts=f.integer("num_experts_per_tok"),
    )


def qwen_experts(f: Fields, layer: int) -> FeedForwardSpec:
    """Experts on every ``decoder_sparse_step``-th layer that is not excepted."""
    experts = f.integer("num_local_experts" if "num_local_experts" in f else "num_experts")
    sparse = (layer + 1) % max(f.integer("decoder_sparse_step", 1), 1) == 0
    if layer in f.integers("mlp_only_layers", []) or not sparse or not experts:
        return gated(f, layer)
    return FeedForwardSpec(
        intermediate=f.integer("moe_intermediate_size"),
        experts=experts,
        active_experts=f.integer("num_experts_per_tok"),
        shared=f.integer("shared_expert_intermediate_size", 0),
    )


def llama4_experts(f: Fields, layer: int) -> FeedForwardSpec:
    """Routed and shared experts on every ``interleave_moe_layer_step``-th layer."""
    step = max(f.integer("interleave_moe_layer_step", 1), 1)
    sparse = f.integers("moe_layers", list(range(step - 1, f.layers(), step)))
    if layer not in sparse:
        return FeedForwardSpec(intermediate=f.integer("intermediate_size_mlp"))
    return FeedForwardSpec(
        intermediate=f.integer("intermediate_size"),
        experts=f.integer("num_local_experts"),
        active_experts=f.integer("num_experts_per_tok"),
        shared=f.integer("intermediate_size"),
    )


def granite_experts(f: Fields, layer: int) -> FeedForwardSpec:
    """Routed experts, if any, and one that every token visits (Granite 3 and 4)."""
    shared = f.integer("shared_intermediate_size", 0)
    if not f.integer("num_local_experts", 0):
        return FeedForwardSpec(intermediate=shared)
    return replace(local_experts(f, layer), shared=shared)


def late_experts(f: Fields, layer: int) -> FeedForwardSpec:
    """Routed and shared experts after the first dense layers (DeepSeek V2 and V3, GLM 4.5)."""
    dense, every = f.integer("first_k_dense_replace"), max(f.integer("moe_layer_freq", 1), 1)
    if layer < dense or layer % every:
        return gated(f, layer)
    return routed(f)


def routed(f: Fields) -> FeedForwardSpec:
    """The experts of a layer, by the names that DeepSeek has given them."""
    width = f.integer("moe_intermediate_size")
    shared = f.integer("n_shared_experts", 0) * width
    return FeedForwardSpec(
        intermediate=width,
        experts=f.integer("n_routed_experts"),
        active_experts=f.integer("num_experts_per_tok"),
        shared=f.integer("moe_shared_expert_intermediate_size", shared),
    )
