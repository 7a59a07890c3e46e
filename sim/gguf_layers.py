"""The layers that the metadata of a GGUF file describes, as llama.cpp caches them.

Keys are those of llama.cpp's ``llama-arch.cpp``, without the architecture's name before them. What
it knows without being told (which layers have a window, which are recurrent) are the rules of its
``load_hparams`` for each architecture.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from sim.checks import require_between
from sim.gguf_file import TensorInfo
from sim.hf_fields import Fields
from sim.layers import MAX_LAYERS, AttentionSpec, FeedForwardSpec, LayerSpec
from sim.state import StateSpec
from workloads.errors import InputError


class _Windows(NamedTuple):
    """Which layers have a window: all but every ``period``-th (0: all but none).

    dense_first: whether a period begins with the layer without. window: where no key says it.
    """

    period: int
    dense_first: bool = False
    window: int | None = None
    kind: str = "swa"


_WINDOWS = {
    "afmoe": _Windows(4),
    "cohere2": _Windows(4),
    "exaone-moe": _Windows(4),
    "exaone4": _Windows(4),
    "gemma2": _Windows(2, window=4096),
    "gemma3": _Windows(6),
    "gpt-oss": _Windows(2),
    "lfm2": _Windows(0),
    "llama4": _Windows(4, window=8192, kind="chunked"),
    "olmo2": _Windows(4),
    "plamo3": _Windows(8),
    "smallthinker": _Windows(4, dense_first=True, window=4096),
}

_WINDOW_UNUSED = (
    *("granite", "llama", "mistral3", "phi3", "phimoe", "qwen2", "qwen2moe", "qwen3", "qwen3moe"),
    "starcoder2",
)
"""Architectures whose files may name a window that llama.cpp does not apply."""

_STATES = {
    "mamba": "mamba",
    "jamba": "mamba",
    **dict.fromkeys(("mamba2", "falcon-h1", "granitehybrid", "nemotron_h"), "mamba2"),
    "nemotron_h_moe": "mamba2",
    **dict.fromkeys(("qwen3next", "qwen35", "qwen35moe"), "deltanet"),
    **dict.fromkeys(("lfm2", "lfm2moe"), "shortconv"),
}
"""Kind of the recurrent state by architecture."""

_UNGATED = (
    *("bloom", "codeshell", "falcon", "gpt2", "gptj", "gptneox", "mpt", "nemotron", "nemotron_h"),
    *("nemotron_h_moe", "orion", "phi2", "starcoder", "starcoder2"),
)
"""Architectures whose feed-forward has two matrices."""

_NOT_READ = (
    *("altup.", "attention.indexer", "attention.shared_kv_layers", "decoder_block_count", "kda."),
    *("token_shift_count", "wkv.", "hyper_connection", "attention.compress"),
)
"""Beginnings of keys that tell of a geometry that is not read."""


def layers_of(arch: str, f: Fields, tensors: Mapping[str, TensorInfo]) -> tuple[LayerSpec, ...]:
    """The layers; ``f``: the architecture's own keys; ``tensors``: those of the file, or none.

    Layers that predict further tokens (``nextn_predict_layers``) cache nothing and are left out.
    Raises `InputError` where the keys do not say enough.
    """
    for name in f:
        if name.startswith(_NOT_READ) and f.table[name]:
            raise InputError(
                f"{f.where}: architecture {arch!r}: its key {name!r} tells of a geometry that is "
                "not read; describe the model in a .toml file"
            )
    if f.table.get("attention.causal") is False:
        raise InputError(f"{f.where}: architecture {arch!r} does not generate text")
    n = f.integer("block_count") - f.integer("nextn_predict_layers", 0)
    require_between(f"{f.where}: key 'block_count'", n, 1, MAX_LAYERS)
    heads = _per_layer(f, "attention.head_count", n, [0] * n)
    kv_heads = _per_layer(f, "attention.head_count_kv", n, heads)
    widths = _per_layer(f, "feed_forward_length", n, [0] * n)
    windows = _windows(arch, f, n)
    recurrent = _recurrent(arch, f, kv_heads, widths)
    state = _state(arch, f) if any(recurrent) else None
    everywhere = arch == "falcon-h1"
    layers = []
    for i in range(n):
        attends = kv_heads[i] > 0 and (everywhere or not recurrent[i])
        layers.append(
            LayerSpec(
                attention=_attention(arch, f, heads[i], kv_heads[i], windows[i])
                if attends
                else None,
                state=state if recurrent[i] else None,
                feed_forward=_feed_forward(arch, f, i, widths[i], tensors),
            )
        )
    return tuple(layers)


def _per_layer(f: Fields, name: str, n: int, default: list[int]) -> list[int]:
    """One number a layer, whether the file gives one for all or a list."""
    value = f.table.get(name, default)
    if not isinstance(value, list):
        return [f.integer(name)] * n
    if len(value) < n:
        raise InputError(f"{f.where}: key {name!r} has {len(value)} entries, not {n}")
    return [Fields({name: each}, f.where).integer(name) for each in value[:n]]


# Windows.

Window = tuple[str, int] | None
"""Kind of attention and tokens of the window; None for full attention."""


def _windows(arch: str, f: Fields, n: int) -> list[Window]:
    rule, pattern = _WINDOWS.get(arch), f.table.get("attention.sliding_window_pattern")
    default = rule.window or 0 if rule else 0
    window = f.integer("attention.sliding_window", default)
    if not window or arch in _WINDOW_UNUSED:
        return [None] * n
    if rule is None and pattern is None:
        raise InputError(
            f"{f.where}: architecture {arch!r} is not known to have a window, and no key "
            "'attention.sliding_window_pattern' says on which layers"
        )
    kind = rule.kind if rule else "swa"
    if kind == "chunked":
        # llama.cpp does not ask the file for the size of Llama 4's chunks.
        window = default
    if isinstance(pattern, list):
        flags = [bool(each) for each in pattern]
        flags = [flags[i % len(flags)] for i in range(n)] if flags else [False] * n
    else:
        period = rule.period if rule else 0
        if pattern is not None:
            period = f.integer("attention.sliding_window_pattern")
        full = 0 if rule and rule.dense_first else period - 1
        flags = [not period or i % period != full for i in range(n)]
    return [(kind, window) if flag else None for flag in flags]


# Attention and state.


def _attention(arch: str, f: Fields, heads: int, kv_heads: int, window: Window) -> AttentionSpec:
    share = f.integer("embedding_length") // max(heads, 1)
    suffix = "_swa" if window and "attention.key_length_swa" in f else ""
    kind, tokens = window or ("full", None)
    if "attention.key_length_mla" in f:
        return AttentionSpec(
            heads=heads,
            kv_heads=heads,
            head_dim_k=f.integer("attention.key_length_mla"),
            head_dim_v=f.integer("attention.value_length_mla"),
            kind=kind,
            window=tokens,
            latent=f.integer("attention.kv_lora_rank"),
            rope=f.integer("rope.dimension_count"),
            q_latent=f.integer("attention.q_lora_rank", 0) or None,
        )
    return AttentionSpec(
        heads=heads,
        kv_heads=kv_heads,
        head_dim_k=f.integer(f"attention.key_length{suffix}", share),
        head_dim_v=f.integer(f"attention.value_length{suffix}", share),
        kind=kind,
        window=tokens,
        output_gate=_STATES.get(arch) == "deltanet",
    )


def _recurrent(arch: str, f: Fields, kv_heads: list[int], widths: list[int]) -> list[bool]:
    """Which layers keep a state."""
    n = len(kv_heads)
    if arch not in _STATES:
        if "ssm.state_size" in f or "ssm.inner_size" in f:
            raise InputError(f"{f.where}: architecture {arch!r} is not known to be recurrent")
        return [False] * n
    if arch in ("mamba", "mamba2", "falcon-h1"):
        return [True] * n
    if _STATES[arch] == "deltanet":
        interval = max(f.integer("full_attention_interval", 4), 1)
        return [(i + 1) % interval != 0 for i in range(n)]
    if arch.startswith("nemotron_h"):
        return [not kv and not width for kv, width in zip(kv_heads, widths, strict=True)]
    return [not kv for kv in kv_heads]


def _state(arch: str, f: Fields) -> StateSpec:
    kind = _STATES[arch]
    if kind == "shortconv":
        width = f.integer("embedding_length")
        return StateSpec(kind=kind, d_inner=width, d_conv=f.integer("shortconv.l_cache"))
    common: dict[str, Any] = {
        "kind": kind,
        "d_inner": f.integer("ssm.inner_size"),
        "d_state": f.integer("ssm.state_size"),
        "d_conv": f.integer("ssm.conv_kernel"),
    }
    rank = f.integer("ssm.time_step_rank")
    if kind == "mamba":
        return StateSpec(**common, dt_rank=rank)
    return StateSpec(**common, heads=rank, groups=f.integer("ssm.group_count"))


# Feed-forward.


def _feed_forward(
    arch: str, f: Fields, layer: int, width: int, tensors: Mapping[str, TensorInfo]
) -> FeedForwardSpec | None:
    experts = f.integer("expert_count", 0)
    gated = arch not in _UNGATED
    if not experts or not _has_experts(arch, f, layer, tensors):
        return FeedForwardSpec(intermediate=width, gated=gated) if width else None
    each = f.integer("expert_feed_forward_length", 0) or width
    shared = f.integer("expert_shared_feed_forward_length", 0)
    return FeedForwardSpec(
        intermediate=each,
        gated=gated,
        experts=experts,
        active_experts=f.integer("expert_used_count"),
        shared=shared or f.integer("expert_shared_count", int(arch == "llama4")) * each,
    )


def _has_experts(arch: str, f: Fields, layer: int, tensors: Mapping[str, TensorInfo]) -> bool:
    """Whether a layer routes: by its tensors where the file has any, else by the family's rule."""
    if f"blk.{layer}.ffn_norm.weight" in tensors or f"blk.{layer}.attn_norm.weight" in tensors:
        return f"blk.{layer}.ffn_gate_inp.weight" in tensors
    if layer < f.integer("leading_dense_block_count", 0):
        return False
    step = f.integer("interleave_moe_layer_step", 2 if arch == "jamba" else 1)
    return (layer + 1) % max(step, 1) == 0
