"""Tiny models with random weights, one for every kind of llama.cpp cache, written as GGUF files.

Their caches are those of `TINY_MODELS`. The weights have no influence on a cache; they are there
because llama.cpp computes with them. Needs the package ``gguf``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from backends.conformance.llamacpp_models import TINY_MODELS
from backends.recorder import tensors
from backends.recorder.tensors import Shapes, attention
from sim.llamacpp.geometry import AttentionGeometry, CacheGeometry

if TYPE_CHECKING:
    from gguf import GGUFWriter

#: Context that the models were "trained" for: more than any recorded context asks for.
N_CTX_TRAIN = 32768
#: Spread of the random weights: small enough for every activation to stay finite.
SPREAD = 0.05


@dataclass(frozen=True, slots=True)
class Recipe:
    """What llama.cpp wants of one model.

    layers: one letter a layer: F full attention, W attention with a window, R recurrent state.
    blocks: tensors of a layer by its letter. top: tensors outside of layers, besides the token
    embedding. metadata: keys (without the architecture's name) beyond those that all models have.
    """

    layers: str
    blocks: dict[str, Shapes]
    top: Shapes
    metadata: dict[str, Any] = field(default_factory=dict)


def recipe_of(name: str) -> Recipe:
    """The recipe of one of `TINY_MODELS`."""
    geometry = TINY_MODELS[name]
    heads = _heads(geometry)
    window = geometry.window.n
    tied, untied = tensors.NORM, tensors.NORM | tensors.OUTPUT
    ssm = {
        "ssm.conv_kernel": tensors.D_CONV,
        "ssm.inner_size": tensors.D_INNER,
        "ssm.state_size": tensors.D_STATE,
        "ssm.time_step_rank": tensors.DT_RANK,
    }
    if name == "llama":
        return Recipe("FF", {"F": attention(heads) | tensors.FFN}, untied)
    if name in ("gemma2", "gemma2all"):
        layer = attention(heads) | tensors.FFN | tensors.POST_NORMS
        # A period of 0 makes every layer one with a window.
        layers, period = ("WFWF", 2) if name == "gemma2" else ("WWW", 0)
        more = {
            "attention.sliding_window": window,
            "attention.sliding_window_pattern": period,
            "attn_logit_softcapping": 50.0,
            "final_logit_softcapping": 30.0,
        }
        return Recipe(layers, {"W": layer, "F": layer}, tied, more)
    if name == "gemma3":
        layer = attention(heads, norms=True) | tensors.FFN | tensors.POST_NORMS
        more = {"attention.sliding_window": window, "attention.sliding_window_pattern": 6}
        return Recipe("WWWWWF", {"W": layer, "F": layer}, tied, more)
    if name == "llama4":
        layer = attention(heads) | tensors.EXPERTS
        more = {
            "expert_count": tensors.N_EXPERT,
            "expert_used_count": 1,
            "expert_feed_forward_length": tensors.N_FF,
            "interleave_moe_layer_step": 1,
        }
        return Recipe("WWWF", {"W": layer, "F": layer}, untied, more)
    if name == "mamba":
        return Recipe("RR", {"R": tensors.MAMBA}, untied, ssm)
    if name == "jamba":
        state = tensors.MAMBA | tensors.MAMBA_NORMS | tensors.FFN
        return Recipe("RFRF", {"R": state, "F": attention(heads) | tensors.FFN}, untied, ssm)
    layer = attention(heads, norms=True) | tensors.FFN
    blocks = {"R": tensors.SHORTCONV | tensors.FFN, "F": layer, "W": layer}
    lfm2: dict[str, Any] = {"shortconv.l_cache": tensors.L_CACHE}
    if name == "lfm2swa":
        lfm2 |= {"attention.sliding_window": window}
    top: Shapes = {"token_embd_norm.weight": (tensors.N_EMBD,)}
    return Recipe("RWRW" if name == "lfm2swa" else "RFRF", blocks, top, lfm2)


def write_model(name: str, path: Path, seed: int) -> None:
    """Write the model ``name`` (one of `TINY_MODELS`); equal seeds give equal bytes."""
    from gguf import GGUFWriter

    geometry, recipe = TINY_MODELS[name], recipe_of(name)
    writer = GGUFWriter(path, geometry.arch)
    _write_metadata(writer, geometry, recipe)
    _write_vocabulary(writer)
    rng = np.random.default_rng(seed)
    shapes = {"token_embd.weight": (tensors.N_VOCAB, tensors.N_EMBD)} | recipe.top
    for index, letter in enumerate(recipe.layers):
        shapes |= {f"blk.{index}.{key}": at for key, at in recipe.blocks[letter].items()}
    for key, shape in shapes.items():
        weights = rng.normal(0.0, SPREAD, shape).astype(np.float32)
        # A is -exp(..) in a trained model: positive entries would let the state explode.
        writer.add_tensor(key, -np.abs(weights) if key.endswith("ssm_a") else weights)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _heads(geometry: CacheGeometry) -> AttentionGeometry:
    """Attention of every layer that has any: full layers and windows differ in nothing else."""
    return geometry.full or geometry.swa or AttentionGeometry(0, 0, 0, 0, rope=False)


def _write_metadata(writer: GGUFWriter, geometry: CacheGeometry, recipe: Recipe) -> None:
    heads = _heads(geometry)
    writer.add_context_length(N_CTX_TRAIN)
    writer.add_embedding_length(tensors.N_EMBD)
    writer.add_block_count(len(recipe.layers))
    writer.add_feed_forward_length(tensors.N_FF)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(tensors.N_VOCAB)
    if heads.layers:
        kv = heads.k_width // heads.head_dim
        writer.add_head_count(tensors.N_EMBD // heads.head_dim)
        writer.add_head_count_kv([0 if letter == "R" else kv for letter in recipe.layers])
        writer.add_key_length(heads.head_dim)
        writer.add_value_length(heads.head_dim)
        writer.add_rope_dimension_count(heads.head_dim)
    for key, value in recipe.metadata.items():
        add = writer.add_float32 if isinstance(value, float) else writer.add_uint32
        add(f"{geometry.arch}.{key}", value)


def _write_vocabulary(writer: GGUFWriter) -> None:
    """A SentencePiece vocabulary in name only: llama.cpp prints pieces of tokens when it debugs."""
    special = ["<unk>", "<s>", "</s>", "<0x0A>"]
    pieces = special + [f"t{i}" for i in range(len(special), tensors.N_VOCAB)]
    unknown, control, byte, normal = 2, 3, 6, 1
    writer.add_tokenizer_model("llama")
    writer.add_token_list(pieces)
    writer.add_token_scores([0.0] * len(pieces))
    types = [unknown, control, control, byte] + [normal] * (len(pieces) - len(special))
    writer.add_token_types(types)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
