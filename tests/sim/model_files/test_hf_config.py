"""Hugging Face configs against parameter counts of the families' own code.

``hf_configs.json`` holds the geometry fields of published configs, and the number of parameters
that ``transformers`` 5.23 builds from each of them (its modules on the meta device, tied tensors
counted once).
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sim.model import ModelSpec
from sim.model_files.hf_config import FAMILIES
from sim.model_files.lookup import model_names, model_of
from workloads.errors import InputError

CASES: dict[str, dict[str, Any]] = json.loads(
    Path(__file__).with_name("hf_configs.json").read_text()
)

# K and V of one token, f16: layers * 2 (K and V) * heads of K and V * head size * 2 bytes.
TOKEN_BYTES = {
    "mixtral-8x7b": 32 * 2 * 8 * 128 * 2,
    "qwen2-7b": 28 * 2 * 4 * 128 * 2,
    "qwen2-57b": 28 * 2 * 4 * 128 * 2,
    "qwen3-30b-a3b": 48 * 2 * 4 * 128 * 2,
    "gemma-2-9b": 42 * 2 * 8 * 256 * 2,
    "deepseek-v2-lite": 27 * (512 + 64) * 2,
    "phi-3-mini": 32 * 2 * 32 * 96 * 2,
    "gpt-oss-20b": 24 * 2 * 8 * 64 * 2,
    "gpt-oss-120b": 36 * 2 * 8 * 64 * 2,
    "command-r-35b": 40 * 2 * 64 * 128 * 2,
    "command-r7b": 32 * 2 * 8 * 128 * 2,
    "llama4-scout": 48 * 2 * 8 * 128 * 2,
    "llama4-maverick": 48 * 2 * 8 * 128 * 2,
    "falcon-h1-7b": 44 * 2 * 2 * 128 * 2,
    "jamba-v0.1": 4 * 2 * 8 * 128 * 2,
    "mamba2-2.7b": 0,
    "lfm2-1.2b": 6 * 2 * 8 * 64 * 2,
    "phi-2": 32 * 2 * 32 * 80 * 2,
    "phi-3.5-moe": 32 * 2 * 8 * 128 * 2,
    "gpt2": 12 * 2 * 12 * 64 * 2,
    "pythia-6.9b": 32 * 2 * 32 * 128 * 2,
    "falcon-7b": 32 * 2 * 1 * 64 * 2,
    "falcon-40b": 60 * 2 * 8 * 64 * 2,
    "starcoder": 40 * 2 * 1 * 128 * 2,
    "granite-3-3b-a800m": 32 * 2 * 8 * 64 * 2,
    "granite-4-h-small": 4 * 2 * 8 * 128 * 2,
    "bamba-9b": 3 * 2 * 8 * 128 * 2,
    "nemotron-h-8b": 4 * 2 * 8 * 128 * 2,
    "qwen3-next-80b": 12 * 2 * 2 * 256 * 2,
    "glm-4-9b": 40 * 2 * 2 * 128 * 2,
    "glm-4.5-air": 46 * 2 * 8 * 128 * 2,
    "olmo-3-7b": 32 * 2 * 32 * 128 * 2,
    "olmoe-1b-7b": 16 * 2 * 16 * 128 * 2,
    "exaone-4-32b": 64 * 2 * 8 * 128 * 2,
    "smollm3-3b": 36 * 2 * 4 * 128 * 2,
    "minimax-m2": 62 * 2 * 8 * 128 * 2,
    "qwen2.5-vl-7b": 28 * 2 * 4 * 128 * 2,
    "qwen3-vl-8b": 36 * 2 * 8 * 128 * 2,
    "llama-3.2-11b-vision": 32 * 2 * 8 * 128 * 2,
    "stablelm-2-1.6b": 24 * 2 * 32 * 64 * 2,
    "qwen3.5-9b": 8 * 2 * 4 * 256 * 2,
    "qwen3.5-35b-a3b": 10 * 2 * 2 * 256 * 2,
    "lfm2-8b-a1b": 6 * 2 * 8 * 64 * 2,
    "ministral-3-8b": 34 * 2 * 8 * 128 * 2,
}

STATE_BYTES = {
    "qwen3.5-9b": 24 * 4 * (3 * (4096 + 2 * 16 * 128) + 128 * 4096),
    "qwen3.5-35b-a3b": 30 * 4 * (3 * (4096 + 2 * 16 * 128) + 128 * 4096),
    "lfm2-8b-a1b": 18 * 4 * 2 * 2048,
    "granite-4-h-small": 36 * 4 * (3 * (8192 + 2 * 128) + 128 * 8192),
    "bamba-9b": 29 * 4 * (3 * (8192 + 2 * 128) + 128 * 8192),
    "nemotron-h-8b": 24 * 4 * (3 * (8192 + 2 * 8 * 128) + 128 * 8192),
    "qwen3-next-80b": 36 * 4 * (3 * (4096 + 2 * 16 * 128) + 128 * 4096),
    "falcon-h1-7b": 44 * 4 * (3 * (3072 + 2 * 256) + 256 * 3072),
    "jamba-v0.1": 28 * 4 * (3 * 8192 + 16 * 8192),
    "mamba2-2.7b": 64 * 4 * (3 * (5120 + 2 * 128) + 128 * 5120),
    "lfm2-1.2b": 10 * 4 * 2 * 2048,
}

GROUPS = {
    "phi-3-mini": [("swa", 2047, 32)],
    "gemma-2-9b": [("full", 0, 21), ("swa", 4096, 21)],
    "gpt-oss-20b": [("full", 0, 12), ("swa", 128, 12)],
    "command-r7b": [("full", 0, 8), ("swa", 4096, 24)],
    "llama4-scout": [("full", 0, 12), ("chunked", 8192, 36)],
    "jamba-v0.1": [("full", 0, 4), ("recurrent", 0, 28)],
    "falcon-h1-7b": [("full", 0, 44), ("recurrent", 0, 44)],
    "lfm2-1.2b": [("full", 0, 6), ("recurrent", 0, 10)],
    "olmo-3-7b": [("full", 0, 8), ("swa", 4096, 24)],
    "exaone-4-32b": [("full", 0, 16), ("swa", 4096, 48)],
    "llama-3.2-11b-vision": [("full", 0, 32)],
}

# Learned position embeddings, which `ModelSpec` leaves out.
POSITIONS = {"gpt2": 1024 * 768, "starcoder": 8192 * 6144}

# Active parameters as the model cards say; some count the embedding lookup, some do not.
ACTIVE = {
    "mixtral-8x7b": 12.9e9,
    "qwen3-30b-a3b": 3.3e9,
    "gpt-oss-20b": 3.6e9,
    "gpt-oss-120b": 5.1e9,
    "jamba-v0.1": 12e9,
}


def model_from(folder: Path, config: dict[str, Any], name: str = "some") -> ModelSpec:
    path = folder / f"{name}.json"
    path.write_text(json.dumps(config))
    return model_of(path)


@pytest.mark.parametrize("name", CASES)
def test_parameters_as_transformers_counts_them(tmp_path: Path, name: str) -> None:
    model = model_from(tmp_path, CASES[name]["config"], name)
    counted = CASES[name]["parameters"] - POSITIONS.get(name, 0)
    # Norms, biases and learned positions are left out: never more, hardly less.
    assert 0.998 * counted < model.parameters <= counted


@pytest.mark.parametrize("name", [name for name in CASES if name in model_names()])
def test_built_in_models_agree_with_their_configs(tmp_path: Path, name: str) -> None:
    model = model_from(tmp_path, CASES[name]["config"], name)
    built_in = model_of(name)
    assert replace(model, bytes_per_parameter=built_in.bytes_per_parameter) == built_in


@pytest.mark.parametrize("name", TOKEN_BYTES)
def test_cache_geometry(tmp_path: Path, name: str) -> None:
    model = model_from(tmp_path, CASES[name]["config"])
    assert model.token_bytes() == TOKEN_BYTES[name]
    assert model.state_bytes == STATE_BYTES.get(name, 0)
    if name in GROUPS:
        assert [(g.kind, g.window, g.layers) for g in model.groups()] == GROUPS[name]
    if name in ACTIVE:
        multiplied = model.linear_flops_per_token / 2
        assert 0.99 * multiplied <= ACTIVE[name] <= 1.01 * model.active_parameters


def test_all_families_are_covered() -> None:
    seen = set()
    for case in CASES.values():
        seen.add(case["config"]["model_type"])
        seen.add(case["config"].get("text_config", {}).get("model_type"))
    # Kimi K2 runs on the code of DeepSeek-V3; the others are the same under a second name.
    same = {"granitemoeshared", "qwen2_5_vl_text", "qwen2_vl", "qwen2_vl_text"}
    same |= {"qwen3_vl_moe_text", "glm4v_text", "glm4v_moe_text"}
    # In `test_late_families`, with arithmetic alone.
    same |= {"gemma3n", "gemma3n_text", "gemma4", "gemma4_text", "kimi_linear"}
    same |= {"gptj", "codegen", "bloom", "mpt", "dbrx", "chatglm", "dots1"}
    assert set(FAMILIES) - seen == {"kimi_k2"} | same


LLAMA = CASES["llama-3.1-8b"]["config"]
GEMMA = CASES["gemma-3-27b"]["config"]
NEMOTRON = CASES["nemotron-h-8b"]["config"]


def without(config: dict[str, Any], *names: str) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in names}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (without(LLAMA, "hidden_size"), "field 'hidden_size' is missing"),
        (without(LLAMA, "num_hidden_layers"), "field 'num_hidden_layers' is missing"),
        (LLAMA | {"num_hidden_layers": None}, "field 'num_hidden_layers' is missing"),
        (LLAMA | {"num_hidden_layers": 10**9}, "field 'num_hidden_layers' must be from 1"),
        (LLAMA | {"num_attention_heads": "32"}, "'num_attention_heads' must be a whole number"),
        (LLAMA | {"num_attention_heads": 0}, "heads must be at least 1, not 0"),
        (without(LLAMA, "head_dim") | {"hidden_size": 4097}, "'head_dim' is missing and hidden"),
        (LLAMA | {"vocab_size": -1}, "'vocab_size' must be a whole number of at least 0"),
        (LLAMA | {"layer_types": ["full_attention"]}, "'layer_types' has 1 entries, not 32"),
        (LLAMA | {"layer_types": ["linear"] * 32}, "'layer_types' has the unknown kind 'linear'"),
        (LLAMA | {"layer_types": [3] * 32}, "'layer_types' must hold only str, not 3"),
        (LLAMA | {"torch_dtype": "int3"}, "the torch_dtype 'int3' is not known"),
        (LLAMA | {"quantization_config": {"quant_method": "odd"}}, "quant_method 'odd' is not"),
        (without(GEMMA, "sliding_window"), "field 'sliding_window' is missing"),
        ({"model_type": "gemma3", "text_config": 5}, "'text_config' must be a table"),
        ({}, "field 'num_key_value_heads' is missing"),
        (LLAMA | {"model_type": "new", "num_experts": 8}, "'new' is not known.*'num_experts'"),
        (LLAMA | {"model_type": "new", "kv_lora_rank": 8}, "'new' is not known.*'kv_lora_rank'"),
        (LLAMA | {"model_type": "new", "sliding_window": 8}, "'layer_types' is missing"),
        (
            NEMOTRON | {"hybrid_override_pattern": "M-"},
            "must have a letter for each of the 52 layers",
        ),
        (NEMOTRON | {"hybrid_override_pattern": "Q" * 52}, "has the unknown 'Q'"),
        (without(LLAMA, "tie_word_embeddings") | {"model_type": "new"}, "'tie_word_embeddings' is"),
        ({"model_type": "bert"}, "model_type 'bert' has an encoder"),
        (LLAMA | {"model_type": "bart", "is_encoder_decoder": True}, "'bart' has an encoder"),
        (LLAMA | {"model_type": "deepseek_v32"}, "is not read: what a step reads depends on what"),
        ({"model_type": "rwkv"}, "model_type 'rwkv' is not read: give its GGUF file"),
    ],
)
def test_what_cannot_be_understood_is_refused(
    tmp_path: Path, config: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        model_from(tmp_path, config)
    assert "some.json" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_plain_decoder_of_an_unknown_family(tmp_path: Path) -> None:
    assert model_from(tmp_path, LLAMA | {"model_type": "new"}) == model_from(tmp_path, LLAMA)
    kinds = ["full_attention", "sliding_attention"] * 16
    mixed = LLAMA | {"model_type": "new", "layer_types": kinds, "sliding_window": 512}
    groups = model_from(tmp_path, mixed).groups()
    assert [(g.kind, g.window, g.layers) for g in groups] == [("full", 0, 16), ("swa", 512, 16)]


def test_images_of_llama_vision(tmp_path: Path) -> None:
    model = model_from(tmp_path, CASES["llama-3.2-11b-vision"]["config"])
    # 4 tiles of 40 x 40 patches and a class token, in 8 layers of 8 heads.
    assert model.image_bytes() == 4 * (40 * 40 + 1) * 8 * 2 * 8 * 128 * 2
    assert [i for i, layer in enumerate(model.layers) if layer.kind == "cross"] == [
        *(3, 8, 13, 18, 23, 28, 33, 38)
    ]
    # Text passes over the layers for images: it costs what the other 32 layers and the head do.
    text = replace(model, layers=tuple(each for each in model.layers if each.kind == "full"))
    assert model.linear_flops_per_token == text.linear_flops_per_token
    assert model.parameters > text.parameters
    assert model.read_weight_bytes(7) == text.read_weight_bytes(7)
    assert text.image_bytes() == 0


def test_granite_without_experts_is_dense(tmp_path: Path) -> None:
    config = CASES["granite-4-h-small"]["config"] | {"num_local_experts": 0}
    part = model_from(tmp_path, config).layers[0].feed_forward
    assert part is not None
    assert (part.experts, part.intermediate) == (0, 1536)


def test_windows_that_are_switched_off_or_on(tmp_path: Path) -> None:
    qwen = CASES["qwen2-7b"]["config"] | {"sliding_window": 4096, "max_window_layers": 20}
    assert [g.kind for g in model_from(tmp_path, qwen).groups()] == ["full"]
    on = model_from(tmp_path, qwen | {"use_sliding_window": True}).groups()
    assert [(g.kind, g.layers) for g in on] == [("full", 20), ("swa", 8)]
    mistral = CASES["mistral-7b"]["config"] | {"sliding_window": None}
    assert [g.kind for g in model_from(tmp_path, mistral).groups()] == ["full"]


def test_outer_fields_of_a_multimodal_config_count(tmp_path: Path) -> None:
    outer = {"model_type": "gemma3", "text_config": without(GEMMA, "tie_word_embeddings")}
    assert model_from(tmp_path, outer).tied_embeddings
    assert not model_from(tmp_path, outer | {"tie_word_embeddings": False}).tied_embeddings
    assert model_from(tmp_path, outer | {"torch_dtype": "float32"}).bytes_per_parameter == 4
    quantized = outer | {"quantization_config": {"quant_method": "awq", "bits": 4}}
    assert model_from(tmp_path, quantized).bytes_per_parameter == 0.5


@pytest.mark.parametrize(
    ("quantized", "size"),
    [
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, 0.5),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, 1.0),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {"group_0": {"weights": {"num_bits": 4, "group_size": 128}}},
            },
            0.5,
        ),
        ({"quant_method": "gptq", "bits": 8}, 1.0),
        ({"quant_method": "fp8"}, 1.0),
    ],
)
def test_weights_that_are_quantised(tmp_path: Path, quantized: dict[str, Any], size: float) -> None:
    model = model_from(tmp_path, LLAMA | {"quantization_config": quantized})
    assert model.bytes_per_parameter == size
    assert model.token_bytes() == 32 * 2 * 8 * 128 * 2


def test_folder_gives_the_name(tmp_path: Path) -> None:
    folder = tmp_path / "Tiny-Llama"
    folder.mkdir()
    with pytest.raises(InputError, match=r"Tiny-Llama/config.json: cannot be read"):
        model_of(folder)
    (folder / "config.json").write_text(json.dumps(LLAMA))
    assert model_of(folder).name == model_of(folder / "config.json").name == "Tiny-Llama"
    (folder / "config.json").write_text("[1]")
    with pytest.raises(InputError, match="must hold one JSON object"):
        model_of(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(InputError, match="is not JSON"):
        model_of(folder)
