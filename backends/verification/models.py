"""Models too small to be good at anything but checking: every kind of attention, narrow rows."""

from __future__ import annotations

from sim.model import AttentionSpec, FeedForwardSpec, LayerSpec, ModelSpec, StateSpec

HEAD_DIM = 32


def checking_model(kind: str = "full", window: int = 48) -> ModelSpec:
    """Two KV heads of 32 elements for four query heads.

    kind: ``full``; or ``swa`` / ``chunked``, with two windowed layers for each full one; or
    ``hybrid``, one layer each of recurrent state, sliding window and full attention.
    """
    full = _layer("full", None)
    if kind == "hybrid":
        state = LayerSpec(
            state=StateSpec(kind="mamba", d_inner=64, d_state=8, d_conv=4, dt_rank=4),
            feed_forward=FeedForwardSpec(intermediate=256),
        )
        beside = (state, _layer("swa", window), full)
        return ModelSpec("checking-hybrid", beside, hidden=128, vocab=256)
    layers = (full,) if kind == "full" else (_layer(kind, window), _layer(kind, window), full)
    return ModelSpec(f"checking-{kind}", layers, hidden=128, vocab=256)


def _layer(kind: str, window: int | None) -> LayerSpec:
    attention = AttentionSpec(
        heads=4, kv_heads=2, head_dim_k=HEAD_DIM, head_dim_v=HEAD_DIM, kind=kind, window=window
    )
    return LayerSpec(attention=attention, feed_forward=FeedForwardSpec(intermediate=256))
