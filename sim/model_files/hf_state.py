"""Layers of the Hugging Face families with recurrent state: Mamba and the hybrids."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from sim.layers import FeedForwardSpec, LayerSpec
from sim.model_files.hf_attention import FULL, FeedForwardOf, attention, latent, layer_kinds
from sim.model_files.hf_feed_forward import gated, granite_experts, routed
from sim.model_files.hf_fields import Fields
from sim.state import StateSpec
from workloads.errors import InputError

_CONV = "conv"
_LINEAR = ("mamba", "linear_attention")
_FULL = ("attention", FULL)


def mamba(f: Fields) -> tuple[LayerSpec, ...]:
    """Mamba 1: nothing but selective scans."""
    hidden = f.integer("hidden_size")
    state = StateSpec(
        kind="mamba",
        d_inner=f.integer("intermediate_size", f.integer("expand", 2) * hidden),
        d_state=f.integer("state_size"),
        d_conv=f.integer("conv_kernel"),
        dt_rank=_step_rank(f, "time_step_rank"),
    )
    return (LayerSpec(state=state),) * f.layers()


def mamba2(f: Fields) -> tuple[LayerSpec, ...]:
    """Mamba 2."""
    state = StateSpec(
        kind="mamba2",
        d_inner=f.integer("num_heads") * f.integer("head_dim"),
        d_state=f.integer("state_size"),
        d_conv=f.integer("conv_kernel"),
        heads=f.integer("num_heads"),
        groups=f.integer("n_groups"),
    )
    return (LayerSpec(state=state),) * f.layers()


def falcon_h1(f: Fields) -> tuple[LayerSpec, ...]:
    """Attention and a Mamba 2 scan side by side in every layer."""
    expanded = f.integer("mamba_expand", 2) * f.integer("hidden_size")
    state = StateSpec(
        kind="mamba2",
        d_inner=f.integer("mamba_d_ssm", expanded),
        d_state=f.integer("mamba_d_state"),
        d_conv=f.integer("mamba_d_conv"),
        heads=f.integer("mamba_n_heads"),
        groups=f.integer("mamba_n_groups"),
    )
    layer = LayerSpec(attention=attention(f), state=state, feed_forward=gated(f, 0))
    return (layer,) * f.layers()


def granite_hybrid(f: Fields) -> tuple[LayerSpec, ...]:
    """Granite 4: Mamba 2 on most layers, attention on those that are listed."""
    state = _mamba2_of_n(f)
    kinds = layer_kinds(f, lambda f, layer: _FULL[0], (*_LINEAR, *_FULL))
    return tuple(
        LayerSpec(
            attention=attention(f) if kind in _FULL else None,
            state=state if kind in _LINEAR else None,
            feed_forward=granite_experts(f, layer),
        )
        for layer, kind in enumerate(kinds)
    )


def bamba(f: Fields) -> tuple[LayerSpec, ...]:
    """Mamba 2, and attention on the layers of ``attn_layer_indices``."""
    listed, state, dense = f.integers("attn_layer_indices", []), _mamba2_of_n(f), gated(f, 0)
    return tuple(
        LayerSpec(
            attention=attention(f) if layer in listed else None,
            state=None if layer in listed else state,
            feed_forward=dense,
        )
        for layer in range(f.layers())
    )


def _mamba2_of_n(f: Fields) -> StateSpec:
    return StateSpec(
        kind="mamba2",
        d_inner=f.integer("mamba_expand", 2) * f.integer("hidden_size"),
        d_state=f.integer("mamba_d_state"),
        d_conv=f.integer("mamba_d_conv"),
        heads=f.integer("mamba_n_heads"),
        groups=f.integer("mamba_n_groups"),
    )


def nemotron_h(f: Fields) -> tuple[LayerSpec, ...]:
    """One thing a layer, by the letters of a pattern: Mamba 2, attention, feed-forward, experts."""
    pattern = f.table.get("hybrid_override_pattern")
    if not isinstance(pattern, str) or len(pattern) != f.layers():
        raise InputError(
            f"{f.where}: field 'hybrid_override_pattern' must have a letter for each of the "
            f"{f.layers()} layers, not {pattern!r}"
        )
    made: dict[str, LayerSpec] = {}
    for letter in pattern:
        if letter not in made:
            made[letter] = _nemotron_layer(f, letter)
    return tuple(made[letter] for letter in pattern)


def _nemotron_layer(f: Fields, letter: str) -> LayerSpec:
    if letter == "M":
        state = StateSpec(
            kind="mamba2",
            d_inner=f.integer("mamba_num_heads") * f.integer("mamba_head_dim"),
            d_state=f.integer("ssm_state_size"),
            d_conv=f.integer("conv_kernel"),
            heads=f.integer("mamba_num_heads"),
            groups=f.integer("n_groups"),
        )
        return LayerSpec(state=state)
    if letter == "*":
        return LayerSpec(attention=attention(f))
    if letter == "-":
        return LayerSpec(feed_forward=replace(gated(f, 0), gated=False))
    if letter == "E":
        return LayerSpec(feed_forward=replace(routed(f), gated=False))
    raise InputError(f"{f.where}: field 'hybrid_override_pattern' has the unknown {letter!r}")


def delta_hybrid(feed_forward_of: FeedForwardOf) -> Callable[[Fields], tuple[LayerSpec, ...]]:
    """Gated delta rule on all but every ``full_attention_interval``-th layer (Qwen3-Next, 3.5)."""

    def kind_of(f: Fields, layer: int) -> str:
        interval = max(f.integer("full_attention_interval", 4), 1)
        return _LINEAR[1] if (layer + 1) % interval else FULL

    def layers_of(f: Fields) -> tuple[LayerSpec, ...]:
        heads = f.integer("linear_num_value_heads")
        state = StateSpec(
            kind="deltanet",
            d_inner=heads * f.integer("linear_value_head_dim"),
            d_state=f.integer("linear_key_head_dim"),
            d_conv=f.integer("linear_conv_kernel_dim"),
            heads=heads,
            groups=f.integer("linear_num_key_heads"),
        )
        gates = replace(attention(f), output_gate=f.flag("attn_output_gate", True))
        return tuple(
            LayerSpec(
                attention=gates if kind == FULL else None,
                state=None if kind == FULL else state,
                feed_forward=feed_forward_of(f, layer),
            )
            for layer, kind in enumerate(layer_kinds(f, kind_of, (_LINEAR[1], FULL)))
        )

    return layers_of


def kimi_linear(f: Fields) -> tuple[LayerSpec, ...]:
    """Kimi's delta attention, and MLA on the layers that are listed (counted from 1)."""
    linear = f.inner("linear_attn_config")
    full, layers = linear.integers("full_attn_layers", []), f.layers()
    if set(full) | set(linear.integers("kda_layers", [])) != set(range(1, layers + 1)):
        raise InputError(
            f"{linear.where}: expected each of the {layers} layers in one of the lists"
        )
    heads, size = linear.integer("num_heads"), linear.integer("head_dim")
    state = StateSpec(
        kind="kda",
        d_inner=heads * size,
        d_state=size,
        d_conv=linear.integer("short_conv_kernel_size"),
        heads=heads,
        groups=heads,
    )
    dense = f.integer("first_k_dense_replace")
    experts = FeedForwardSpec(
        intermediate=f.integer("moe_intermediate_size"),
        experts=f.integer("num_experts"),
        active_experts=f.integer("num_experts_per_token"),
        shared=f.integer("num_shared_experts", 0) * f.integer("moe_intermediate_size"),
    )
    compressed = latent(f)
    return tuple(
        LayerSpec(
            attention=compressed if layer + 1 in full else None,
            state=None if layer + 1 in full else state,
            feed_forward=gated(f, layer) if layer < dense else experts,
        )
        for layer in range(layers)
    )


def jamba(f: Fields) -> tuple[LayerSpec, ...]:
    """Attention on every ``attn_layer_period``-th layer, Mamba 1 on the others, experts on some."""
    state = StateSpec(
        kind="mamba",
        d_inner=f.integer("mamba_expand") * f.integer("hidden_size"),
        d_state=f.integer("mamba_d_state"),
        d_conv=f.integer("mamba_d_conv"),
        dt_rank=_step_rank(f, "mamba_dt_rank"),
    )
    dense = gated(f, 0)
    experts = FeedForwardSpec(
        intermediate=f.integer("intermediate_size"),
        experts=f.integer("num_experts"),
        active_experts=f.integer("num_experts_per_tok"),
    )

    def is_every(kind: str, layer: int) -> bool:
        period = max(f.integer(f"{kind}_layer_period"), 1)
        return layer % period == f.integer(f"{kind}_layer_offset")

    return tuple(
        LayerSpec(
            attention=attention(f) if is_every("attn", layer) else None,
            state=None if is_every("attn", layer) else state,
            feed_forward=experts if is_every("expert", layer) else dense,
        )
        for layer in range(f.layers())
    )


def lfm2(f: Fields) -> tuple[LayerSpec, ...]:
    """Gated short convolutions, and attention on some layers."""
    hidden = f.integer("hidden_size")
    state = StateSpec(kind="shortconv", d_inner=hidden, d_conv=f.integer("conv_L_cache"))
    width = f.integer("block_ff_dim" if "block_ff_dim" in f else "intermediate_size")
    if f.flag("block_auto_adjust_ff_dim", True):
        multiple = max(f.integer("block_multiple_of"), 1)
        width = -(-(2 * width // 3) // multiple) * multiple
    dense = FeedForwardSpec(intermediate=width)
    return _convolving(f, state, [dense] * f.layers())


def lfm2_moe(f: Fields) -> tuple[LayerSpec, ...]:
    """As LFM2, with experts after the first dense layers."""
    state = StateSpec(
        kind="shortconv", d_inner=f.integer("hidden_size"), d_conv=f.integer("conv_L_cache")
    )
    experts = FeedForwardSpec(
        intermediate=f.integer("moe_intermediate_size"),
        experts=f.integer("num_experts"),
        active_experts=f.integer("num_experts_per_tok"),
    )
    dense = f.integer("num_dense_layers", 0)
    return _convolving(f, state, [gated(f, 0)] * dense + [experts] * max(f.layers() - dense, 0))


def _convolving(
    f: Fields, state: StateSpec, feed_forwards: list[FeedForwardSpec]
) -> tuple[LayerSpec, ...]:
    def kind_of(f: Fields, layer: int) -> str:
        listed = f.integers("full_attn_idxs", list(range(f.layers())))
        return FULL if layer in listed else _CONV

    return tuple(
        LayerSpec(
            attention=attention(f) if kind == FULL else None,
            state=state if kind == _CONV else None,
            feed_forward=feed_forward,
        )
        for kind, feed_forward in zip(
            layer_kinds(f, kind_of, (FULL, _CONV)), feed_forwards, strict=False
        )
    )


def _step_rank(f: Fields, name: str) -> int:
    """Rank of the time step; ``auto`` is a sixteenth of the width, rounded up (Mamba paper)."""
    if f.table.get(name) == "auto":
        return -(-f.integer("hidden_size") // 16)
    return f.integer(name)
