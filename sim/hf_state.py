"""Layers of the Hugging Face families with recurrent state: Mamba and the hybrids."""

from __future__ import annotations

from sim.hf_attention import FULL, attention, layer_kinds
from sim.hf_feed_forward import gated
from sim.hf_fields import Fields
from sim.layers import FeedForwardSpec, LayerSpec
from sim.state import StateSpec

_CONV = "conv"


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
    feed_forward = FeedForwardSpec(intermediate=width)

    def kind_of(f: Fields, layer: int) -> str:
        listed = f.integers("full_attn_idxs", list(range(f.layers())))
        return FULL if layer in listed else _CONV

    return tuple(
        LayerSpec(
            attention=attention(f) if kind == FULL else None,
            state=state if kind == _CONV else None,
            feed_forward=feed_forward,
        )
        for kind in layer_kinds(f, kind_of, (FULL, _CONV))
    )


def _step_rank(f: Fields, name: str) -> int:
    """Rank of the time step; ``auto`` is a sixteenth of the width, rounded up (Mamba paper)."""
    if f.table.get(name) == "auto":
        return -(-f.integer("hidden_size") // 16)
    return f.integer(name)
