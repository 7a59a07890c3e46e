"""Models from Hugging Face ``config.json`` files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sim.layers import LayerSpec
from sim.model import NO_LIMIT, ModelSpec
from sim.model_files import hf_attention as attention
from sim.model_files import hf_feed_forward as feed_forward
from sim.model_files import hf_gemma as gemma
from sim.model_files import hf_gpt as gpt
from sim.model_files import hf_state as state
from sim.model_files.hf_fields import Fields, read_fields
from workloads.errors import InputError


@dataclass(frozen=True)
class _Family:
    """How the configs of one ``model_type`` are read.

    layers: reader of the layers. unread: of `ModelSpec.unread`. tied: whether embedding and head
    are one where the file does not say. defaults: fields that published files leave out, with the
    value of their class.
    names: what the family calls fields that others share, by their shared name.
    """

    layers: Callable[[Fields], tuple[LayerSpec, ...]]
    tied: bool = False
    defaults: dict[str, Any] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    unread: Callable[[Fields], int] = lambda f: 0

    def fields_of(self, f: Fields) -> Fields:
        """The fields of a config under their shared names, defaults filled in."""
        shared = {name: f.table[own] for name, own in self.names.items() if own in f}
        return Fields(self.defaults | f.table | shared, f.where)


def _plain(kind_of: attention.KindOf = attention.all_full, tied: bool = False) -> _Family:
    return _Family(attention.decoder(kind_of, feed_forward.gated), tied)


def _opt(f: Fields) -> tuple[LayerSpec, ...]:
    if f.integer("word_embed_proj_dim", f.integer("hidden_size")) != f.integer("hidden_size"):
        raise InputError(f"{f.where}: field 'word_embed_proj_dim' must equal hidden_size")
    return attention.decoder(attention.all_full, feed_forward.ungated)(f)


_GEMMA3 = _Family(
    attention.decoder(attention.every_nth_full(6), feed_forward.gated),
    tied=True,
    defaults={
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "vocab_size": 262208,
        "max_position_embeddings": 131072,
    },
)
_GEMMA3N = _Family(
    gemma.gemma3n, tied=True, defaults=gemma.GEMMA3N_DEFAULTS, unread=gemma.gemma3n_unread
)
_GEMMA4 = _Family(
    gemma.gemma4, tied=True, defaults=gemma.GEMMA4_DEFAULTS, unread=gemma.gemma4_unread
)
_LLAMA4 = _Family(attention.decoder(attention.llama4_kind, feed_forward.llama4_experts))
_MLLAMA = _Family(
    attention.mllama,
    defaults={"cross_attention_layers": [3, 8, 13, 18, 23, 28, 33, 38], "image_tokens": 6404},
)
_QWEN = _plain(attention.upper_sliding)
_QWEN_NEXT = _Family(state.delta_hybrid(feed_forward.qwen_experts))
_GRANITE_MOE = _Family(attention.decoder(attention.all_full, feed_forward.granite_experts))
_GLM_MOE = _Family(attention.decoder(attention.all_full, feed_forward.late_experts))
_UNGATED = _Family(attention.decoder(attention.all_full, feed_forward.ungated))
_QWEN_MOE = _Family(attention.decoder(attention.upper_sliding, feed_forward.qwen_experts))
_GPT_OSS = _Family(attention.decoder(attention.every_nth_full(2), feed_forward.local_experts))

FAMILIES: dict[str, _Family] = {
    "bamba": _Family(state.bamba),
    "bloom": _Family(gpt.bloom, tied=True, names=gpt.BLOOM_NAMES),
    "chatglm": _Family(gpt.chatglm, names=gpt.CHATGLM_NAMES),
    "codegen": _Family(gpt.gpt, names=gpt.GPT_NAMES),
    "cohere": _plain(tied=True),
    "cohere2": _plain(attention.every_nth_full(4), tied=True),
    "dbrx": _Family(gpt.dbrx, names=gpt.MPT_NAMES),
    "deepseek_v2": _Family(attention.deepseek),
    "deepseek_v3": _Family(attention.deepseek),
    "dots1": _Family(attention.decoder(attention.upper_sliding, feed_forward.late_experts)),
    "exaone4": _plain(attention.exaone4_kind),
    "falcon": _Family(gpt.falcon, tied=True, defaults={"max_position_embeddings": 2048}),
    "falcon_h1": _Family(state.falcon_h1),
    "falcon_mamba": _Family(state.mamba, tied=True),
    "gemma": _plain(tied=True),
    "gemma2": _plain(attention.every_nth_full(2), tied=True),
    "gemma3": _GEMMA3,
    "gemma3_text": _GEMMA3,
    "gemma3n": _GEMMA3N,
    "gemma3n_text": _GEMMA3N,
    "gemma4": _GEMMA4,
    "gemma4_text": _GEMMA4,
    "glm4": _plain(),
    "glm4_moe": _GLM_MOE,
    "glm4v_moe_text": _GLM_MOE,
    "glm4v_text": _plain(),
    "gpt2": _Family(gpt.gpt, tied=True, names=gpt.GPT_NAMES),
    "gpt_bigcode": _Family(gpt.gpt, tied=True, defaults={"multi_query": True}, names=gpt.GPT_NAMES),
    "gpt_neox": _UNGATED,
    "gptj": _Family(gpt.gpt, names=gpt.GPT_NAMES),
    "gpt_oss": _GPT_OSS,
    "granite": _plain(),
    "granitemoe": _GRANITE_MOE,
    "granitemoehybrid": _Family(state.granite_hybrid),
    "granitemoeshared": _GRANITE_MOE,
    "jamba": _Family(state.jamba),
    "kimi_k2": _Family(attention.deepseek),
    "kimi_linear": _Family(state.kimi_linear),
    "lfm2": _Family(state.lfm2, tied=True),
    "lfm2_moe": _Family(state.lfm2_moe, tied=True),
    "llama": _plain(),
    "llama4": _LLAMA4,
    "llama4_text": _LLAMA4,
    "mamba": _Family(state.mamba, tied=True),
    "mamba2": _Family(state.mamba2),
    "minimax_m2": _Family(attention.decoder(attention.all_full, feed_forward.local_experts)),
    "ministral3": _plain(),
    "mistral": _plain(attention.all_sliding),
    "mixtral": _Family(attention.decoder(attention.all_sliding, feed_forward.local_experts)),
    "mllama": _MLLAMA,
    "mllama_text_model": _MLLAMA,
    "mpt": _Family(gpt.mpt, tied=True, names=gpt.MPT_NAMES),
    "nemotron_h": _Family(state.nemotron_h),
    "olmo2": _plain(),
    "olmo3": _plain(attention.every_nth_full(4)),
    "olmoe": _Family(
        attention.decoder(attention.all_full, feed_forward.local_experts),
        names={"num_local_experts": "num_experts"},
    ),
    "opt": _Family(_opt, tied=True),
    "phi": _UNGATED,
    "phi3": _plain(attention.all_sliding),
    "phimoe": _Family(attention.decoder(attention.all_sliding, feed_forward.local_experts)),
    "qwen2": _QWEN,
    "qwen2_5_vl": _QWEN,
    "qwen2_5_vl_text": _QWEN,
    "qwen2_moe": _QWEN_MOE,
    "qwen2_vl": _QWEN,
    "qwen2_vl_text": _QWEN,
    "qwen3": _QWEN,
    "qwen3_moe": _QWEN_MOE,
    "qwen3_5_moe_text": _QWEN_NEXT,
    "qwen3_5_text": _Family(state.delta_hybrid(feed_forward.gated)),
    "qwen3_next": _QWEN_NEXT,
    "qwen3_vl": _QWEN,
    "qwen3_vl_moe_text": _QWEN_MOE,
    "qwen3_vl_text": _QWEN,
    "smollm3": _plain(attention.upper_sliding, tied=True),
    "stablelm": _plain(),
    "starcoder2": _Family(
        attention.decoder(attention.all_sliding, feed_forward.ungated), tied=True
    ),
}

_NOT_PLAIN = (
    *("attn_", "block_types", "conv_", "cross_attention", "full_att", "global_", "hybrid_"),
    *("index_", "kv_lora", "layers_block", "linear_", "mamba_", "moe_", "multi_query"),
    *("n_routed", "num_experts", "num_global", "num_kv_shared", "num_local_experts"),
    *("rwkv", "ssm_", "state_size", "time_step"),
)
"""Beginnings of fields that tell of a geometry other than the plain decoder's."""

_NOT_DECODERS = ("bert", "deberta", "distilbert", "electra", "modernbert", "roberta", "t5", "xlm-")
"""Beginnings of the ``model_type`` of encoders, and of families that have one."""

_INDEXED = "what a step reads depends on what the index of its sparse attention picks"
_REFUSED = {
    "deepseek_v32": _INDEXED,
    "deepseek_v4": "its caches are compressed by rules that are not known here",
    "glm_moe_dsa": _INDEXED,
    "rwkv": "give its GGUF file",
}
"""Families that are known and not read, and why, by the beginning of their ``model_type``."""

_OUTER_FIELDS = ("dtype", "quantization_config", "tie_word_embeddings", "torch_dtype")
"""Fields that a multimodal config may hold for its text part."""


def model_from_config_file(path: Path) -> ModelSpec:
    """The model of the config at ``path``, or of the ``config.json`` in that folder.

    Raises `InputError`, naming the field, where the config does not say enough.
    """
    named = path if path.is_dir() or path.name != "config.json" else path.parent
    name = named.name if named.is_dir() else named.stem
    return model_from_fields(read_fields(path), name or "config")


def model_from_fields(f: Fields, name: str) -> ModelSpec:
    """The model that the fields of a config describe; of a multimodal one the text part."""
    model_type = f.table.get("model_type")
    if "text_config" in f:
        shared = {key: f.table[key] for key in _OUTER_FIELDS if key in f}
        if model_type == "mllama" and "vision_config" in f:
            shared["image_tokens"] = attention.image_tokens(f.inner("vision_config"))
        f = f.inner("text_config")
        f = Fields(shared | f.table, f.where)
        model_type = f.table.get("model_type", model_type)
    family = FAMILIES.get(str(model_type))
    if family is None:
        _require_plain(f, model_type)
        family = _plain(_listed_only)
    f = family.fields_of(f)
    try:
        return ModelSpec(
            name=name,
            layers=family.layers(f),
            hidden=f.integer("hidden_size"),
            vocab=f.integer("vocab_size"),
            tied_embeddings=f.flag("tie_word_embeddings", family.tied),
            max_context=f.integer("max_position_embeddings", NO_LIMIT),
            bytes_per_parameter=_bytes_per_parameter(f),
            unread=family.unread(f),
        )
    except InputError as error:
        if str(error).startswith(f.where):
            raise
        raise InputError(f"{f.where}: {error}") from error


def _require_plain(f: Fields, model_type: object) -> None:
    """Refuse a config of no known family unless it is surely a plain decoder."""
    if str(model_type).startswith(_NOT_DECODERS) or f.table.get("is_encoder_decoder") is True:
        raise InputError(
            f"{f.where}: model_type {model_type!r} has an encoder; expected a model that is a "
            "decoder alone"
        )
    for beginning, why in _REFUSED.items():
        if str(model_type).startswith(beginning):
            raise InputError(f"{f.where}: model_type {model_type!r} is not read: {why}")
    for name in f:
        if name.startswith(_NOT_PLAIN):
            raise InputError(
                f"{f.where}: model_type {model_type!r} is not known, and its field {name!r} tells "
                "of a geometry that cannot be guessed; describe the model in a .toml file"
            )
    for name in ("num_key_value_heads", "tie_word_embeddings"):
        if name not in f:
            raise InputError(f"{f.where}: field {name!r} is missing")


def _listed_only(f: Fields, layer: int) -> str:
    if "sliding_window" in f:
        raise InputError(f"{f.where}: field 'layer_types' is missing: which layers have a window?")
    return attention.all_full(f, layer)


def _bytes_per_parameter(f: Fields) -> float:
    """Size of a weight: by quantisation, else by the stated type, else 2 bytes."""
    if "quantization_config" in f:
        quantized = f.inner("quantization_config")
        if "bits" in quantized:
            return quantized.integer("bits") / 8
        method = quantized.table.get("quant_method")
        if method == "compressed-tensors":
            return _compressed_bytes(quantized)
        if method == "bitsandbytes":
            return 0.5 if quantized.flag("load_in_4bit", False) else 1.0
        if method not in _QUANTIZED_BYTES:
            raise InputError(f"{quantized.where}: the quant_method {method!r} is not known")
        return _QUANTIZED_BYTES[method]
    kind = f.table.get("dtype", f.table.get("torch_dtype", "bfloat16"))
    if kind not in _WEIGHT_BYTES:
        raise InputError(f"{f.where}: the torch_dtype {kind!r} is not known")
    return _WEIGHT_BYTES[kind]


def _compressed_bytes(quantized: Fields) -> float:
    """By the bits of the weights of the first group."""
    groups = quantized.inner("config_groups")
    first = next(iter(groups), None)
    if first is None:
        raise InputError(f"{groups.where}: expected at least one group")
    return groups.inner(first).inner("weights").integer("num_bits") / 8


_WEIGHT_BYTES = {"float32": 4.0, "float16": 2.0, "bfloat16": 2.0, "float8_e4m3fn": 1.0}
_QUANTIZED_BYTES = {"fp8": 1.0, "mxfp4": 4.25 / 8}
