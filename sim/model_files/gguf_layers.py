"""The layers that the metadata of a GGUF file describes, as llama.cpp caches them.

Keys are those of llama.cpp's ``llama-arch.cpp``, without the architecture's name before them. What
it knows without being told (which layers have a window, which are recurrent) are the rules of its
``load_hparams`` for each architecture.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from sim.checks import require_between
from sim.layers import MAX_LAYERS, AttentionSpec, FeedForwardSpec, LayerSpec
from sim.model_files.gguf_file import TensorInfo
from sim.model_files.hf_fields import Fields
from sim.model_files.hf_gemma import streams_of, with_ends
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
    "gemma3n": _Windows(5),
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
    **dict.fromkeys(("rwkv6", "rwkv7"), "rwkv"),
    "kimi-linear": "kda",
}
"""Kind of the recurrent state by architecture."""

_UNGATED = (
    *("bloom", "codeshell", "falcon", "gpt2", "gptj", "gptneox", "mpt", "nemotron", "nemotron_h"),
    *("nemotron_h_moe", "orion", "phi2", "rwkv6", "rwkv7", "starcoder", "starcoder2"),
)
"""Architectures whose feed-forward has two matrices."""

_NOT_READ = (
    *("attention.indexer", "decoder_block_count", "hyper_connection", "attention.compress"),
)
"""Beginnings of keys that tell of a geometry that is not read."""

_GEMMA3N_OWN = 20
"""Layers of Gemma 3n that cache, whatever the file says of it or not."""
_LAUREL_RANK = 64

_RWKV_RANKS = {
    "rwkv6": {"time_mix_extra_dim": 5, "time_decay_extra_dim": 1},
    "rwkv7": {
        "attention.decay_lora_rank": 1,
        "attention.iclr_lora_rank": 1,
        "attention.value_residual_mix_lora_rank": 1,
        "attention.gate_lora_rank": 1,
    },
}
"""Low ranks of RWKV's mixtures by key, and how many matrices up and down each has."""


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
    own = _layers_with_own(arch, f, n)
    others = _others(arch, f)
    layers = []
    for i in range(n):
        attention = None
        if kv_heads[i] > 0 and (everywhere or not recurrent[i]):
            attention = _attention(arch, f, heads[i], kv_heads[i], windows[i])
            reused = _has_tensors(tensors, i) and f"blk.{i}.attn_v.weight" not in tensors
            same = arch == "gemma4" and reused and i < own
            attention = replace(attention, borrows=i >= own, k_is_v=same)
        layers.append(
            LayerSpec(
                attention=attention,
                state=state if recurrent[i] else None,
                feed_forward=_feed_forward(arch, f, i, widths[i], tensors),
                others=others,
            )
        )
    hidden = f.integer("embedding_length")
    return with_ends(
        layers,
        hidden * n * f.integer("embedding_length_per_layer_input", 0),
        (f.integer("altup.num_inputs", 1) - 1) * hidden**2,
    )


def unread_of(f: Fields, vocab: int) -> int:
    """Elements of the table of the layers' own inputs, where there is one."""
    own = f.integer("embedding_length_per_layer_input", 0)
    return vocab * f.integer("block_count") * own


def _layers_with_own(arch: str, f: Fields, n: int) -> int:
    """Layers, from the first, that have K and V of their own."""
    if "attention.shared_kv_layers" in f:
        return n - f.integer("attention.shared_kv_layers")
    return min(n, _GEMMA3N_OWN) if arch == "gemma3n" else n


def _others(arch: str, f: Fields) -> int:
    """Elements of a layer's matrices beside attention, state and feed-forward."""
    hidden = f.integer("embedding_length")
    others = 2 * hidden * f.integer("embedding_length_per_layer_input", 0)
    if arch in _RWKV_RANKS:
        # Decays, gates and mixtures of low rank; RWKV 6 has a whole gate, and one behind its
        # feed-forward.
        ranks = sum(times * f.integer(name, 0) for name, times in _RWKV_RANKS[arch].items())
        return 2 * hidden * ranks + (2 * hidden**2 if arch == "rwkv6" else 0)
    if arch != "gemma3n":
        return others
    return others + streams_of(hidden, f.integer("altup.num_inputs")) + 2 * hidden * _LAUREL_RANK


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
        if any(name in f for name in ("ssm.state_size", "ssm.inner_size", "wkv.head_size")):
            raise InputError(f"{f.where}: architecture {arch!r} is not known to be recurrent")
        return [False] * n
    if arch in ("mamba", "mamba2", "falcon-h1", "rwkv6", "rwkv7"):
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
    if kind == "rwkv":
        return StateSpec(
            kind=kind,
            d_inner=f.integer("embedding_length"),
            d_state=f.integer("wkv.head_size"),
            d_conv=f.integer("token_shift_count", 2) + 1,
        )
    if kind == "kda":
        heads, size = f.integer("attention.head_count"), f.integer("kda.head_dim")
        width, taps = heads * size, f.integer("ssm.conv_kernel")
        return StateSpec(
            kind=kind, d_inner=width, d_state=size, d_conv=taps, heads=heads, groups=heads
        )
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
    if arch == "gemma4":
        # The dense feed-forward stands beside the experts.
        shared = width
    return FeedForwardSpec(
        intermediate=each,
        gated=gated,
        experts=experts,
        active_experts=f.integer("expert_used_count"),
        shared=shared or f.integer("expert_shared_count", int(arch == "llama4")) * each,
    )


def _has_experts(arch: str, f: Fields, layer: int, tensors: Mapping[str, TensorInfo]) -> bool:
    """Whether a layer routes: by its tensors where the file has any, else by the family's rule."""
    if _has_tensors(tensors, layer):
        return f"blk.{layer}.ffn_gate_inp.weight" in tensors
    if layer < f.integer("leading_dense_block_count", 0):
        return False
    step = f.integer("interleave_moe_layer_step", 2 if arch == "jamba" else 1)
    return (layer + 1) % max(step, 1) == 0


def _has_tensors(tensors: Mapping[str, TensorInfo], layer: int) -> bool:
    """Whether the file lists the tensors of a layer."""
    return f"blk.{layer}.ffn_norm.weight" in tensors or f"blk.{layer}.attn_norm.weight" in tensors
