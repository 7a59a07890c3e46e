"""GGUF headers: what llama.cpp said of its own caches, and geometry worked out by hand.

Headers are written with the package ``gguf``, llama.cpp's own.
"""

import gzip
import json
import os
import struct
from pathlib import Path
from typing import Any

import pytest

from sim.memory import memory_report
from sim.model import ModelSpec
from sim.model_files.gguf_file import TENSOR_TYPES, GGUFHeader, TensorInfo, read_header
from sim.model_files.gguf_model import model_from_header
from sim.model_files.lookup import model_of
from workloads.errors import InputError

gguf = pytest.importorskip("gguf")

SHARED = Path(os.environ.get("KVLAB_SHARED", Path(__file__).parents[4] / "shared"))
LOGGED = SHARED / "conformance" / "llamacpp" / "memsize.jsonl.gz"


@pytest.mark.skipif(not LOGGED.exists(), reason=f"no logs of llama.cpp at {LOGGED}")
@pytest.mark.parametrize(
    "name", ["llama", "gemma2", "gemma2all", "gemma3", "llama4", "mamba", "jamba", "lfm2"]
)
def test_memory_as_llama_cpp_logs_it_for_the_same_file(tmp_path: Path, name: str) -> None:
    from backends.recorder.tiny_models import write_model

    path = tmp_path / "model.bin"
    write_model(name, path, seed=1)
    model = model_of(path)
    compared = 0
    for line in gzip.decompress(LOGGED.read_bytes()).splitlines():
        log = json.loads(line)
        config = log["config"]
        if config["model"] != name:
            continue
        report = memory_report(
            model,
            context=max(config["n_ctx"] // config["n_seq_max"], 1),
            sequences=config["n_seq_max"],
            ubatch=config["n_ubatch"],
            kv_type=config["type_k"],
            kv_type_v=config["type_v"],
            swa_full=config["swa_full"],
            unified=config["kv_unified"],
        )
        if report.context * report.sequences != config["n_ctx"]:
            continue
        logged = sum(
            cache.get("bytes_k", 0)
            + cache.get("bytes_v", 0)
            + cache.get("bytes_r", 0)
            + cache.get("bytes_s", 0)
            for cache in log["caches"]
        )
        assert report.bytes == logged, config
        compared += 1
    assert compared >= 12


PLAIN = {"context_length": 8192, "vocab_size": 1000}


def heads(count: int, kv: Any, size: int) -> dict[str, Any]:
    return {
        "attention.head_count": count,
        "attention.head_count_kv": kv,
        "attention.key_length": size,
        "attention.value_length": size,
    }


def layers(count: int, hidden: int, width: Any) -> dict[str, Any]:
    return {"block_count": count, "embedding_length": hidden, "feed_forward_length": width}


def ssm(inner: int, state: int, rank: int, groups: int, conv: int = 4) -> dict[str, Any]:
    return {
        "ssm.inner_size": inner,
        "ssm.state_size": state,
        "ssm.time_step_rank": rank,
        "ssm.group_count": groups,
        "ssm.conv_kernel": conv,
    }


def experts(count: int, used: int, width: int) -> dict[str, Any]:
    return {
        "expert_count": count,
        "expert_used_count": used,
        "expert_feed_forward_length": width,
    }


MLA = {
    "attention.kv_lora_rank": 512,
    "attention.q_lora_rank": 1536,
    "rope.dimension_count": 64,
    "leading_dense_block_count": 3,
    "expert_shared_count": 1,
}
NEMOTRON = "M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M-"

# Keys as llama.cpp's converter writes them for the published checkpoints.
HEADERS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama-3.1-8b": ("llama", layers(32, 4096, 14336) | heads(32, 8, 128)),
    "gemma-2-9b": (
        "gemma2",
        layers(42, 3584, 14336) | heads(16, 8, 256) | {"attention.sliding_window": 4096},
    ),
    "gemma-3-27b": (
        "gemma3",
        layers(62, 5376, 21504) | heads(32, 16, 128) | {"attention.sliding_window": 1024},
    ),
    "phi-3-mini": (
        "phi3",
        layers(32, 3072, 8192) | heads(32, 32, 96) | {"attention.sliding_window": 2047},
    ),
    "command-r7b": (
        "cohere2",
        layers(32, 4096, 14336) | heads(32, 8, 128) | {"attention.sliding_window": 4096},
    ),
    "exaone-4-32b": (
        "exaone4",
        layers(64, 5120, 27392) | heads(40, 8, 128) | {"attention.sliding_window": 4096},
    ),
    "gpt-oss-20b": (
        "gpt-oss",
        layers(24, 2880, 2880)
        | heads(64, 8, 64)
        | experts(32, 4, 2880)
        | {"attention.sliding_window": 128},
    ),
    "llama4-scout": (
        "llama4",
        layers(48, 5120, 16384)
        | heads(40, 8, 128)
        | experts(16, 1, 8192)
        | {"interleave_moe_layer_step": 1},
    ),
    "qwen3-30b-a3b": (
        "qwen3moe",
        layers(48, 2048, 6144) | heads(32, 4, 128) | experts(128, 8, 768),
    ),
    "glm-4.5-air": (
        "glm4moe",
        layers(47, 4096, 10944)
        | heads(96, 8, 128)
        | experts(128, 8, 1408)
        | {"leading_dense_block_count": 1, "expert_shared_count": 1, "nextn_predict_layers": 1},
    ),
    "deepseek-v3": (
        "deepseek2",
        layers(61, 7168, 18432)
        | heads(128, 1, 576)
        | experts(256, 8, 2048)
        | MLA
        | {"attention.key_length_mla": 192, "attention.value_length_mla": 128},
    ),
    "deepseek-v3-uncompressed": (
        "deepseek2",
        layers(61, 7168, 18432)
        | heads(128, 128, 192)
        | experts(256, 8, 2048)
        | MLA
        | {"attention.value_length": 128},
    ),
    "mamba-2.8b": (
        "mamba",
        layers(64, 2560, 0) | ssm(5120, 16, 160, 0) | {"attention.head_count": 0},
    ),
    "mamba2-2.7b": (
        "mamba2",
        layers(64, 2560, 0) | ssm(5120, 128, 80, 1) | {"attention.head_count": 0},
    ),
    "jamba-v0.1": (
        "jamba",
        layers(32, 4096, 14336)
        | heads(32, [8 if i % 8 == 4 else 0 for i in range(32)], 128)
        | ssm(8192, 16, 256, 0)
        | {"expert_count": 16, "expert_used_count": 2},
    ),
    "falcon-h1-7b": (
        "falcon-h1",
        layers(44, 3072, 12288) | heads(12, 2, 128) | ssm(3072, 256, 24, 1),
    ),
    "granite-4-h-small": (
        "granitehybrid",
        layers(40, 4096, 768)
        | heads(32, [8 if i % 10 == 5 else 0 for i in range(40)], 128)
        | ssm(8192, 128, 128, 1)
        | experts(72, 10, 768)
        | {"expert_shared_feed_forward_length": 1536},
    ),
    "nemotron-h-8b": (
        "nemotron_h",
        layers(52, 4096, [21504 if each == "-" else 0 for each in NEMOTRON])
        | heads(32, [8 if each == "*" else 0 for each in NEMOTRON], 128)
        | ssm(8192, 128, 128, 8),
    ),
    "qwen3-next-80b": (
        "qwen3next",
        layers(48, 2048, 5120)
        | heads(16, 2, 256)
        | ssm(4096, 128, 32, 16)
        | experts(512, 10, 512)
        | {"expert_shared_feed_forward_length": 512},
    ),
    "lfm2-1.2b": (
        "lfm2",
        layers(16, 2048, 8192)
        | heads(32, [8 if i in (2, 5, 8, 10, 12, 14) else 0 for i in range(16)], 64)
        | {"shortconv.l_cache": 3},
    ),
}

# K and V of one token, f16: layers * 2 (K and V) * heads of K and V * head size * 2 bytes. The
# first is what llama.cpp logs for that model ("KV self size = 1024.00 MiB" for 8192 cells).
TOKEN_BYTES = {
    "llama-3.1-8b": 1024 * 2**20 // 8192,
    "gemma-2-9b": 42 * 2 * 8 * 256 * 2,
    "gemma-3-27b": 62 * 2 * 16 * 128 * 2,
    "phi-3-mini": 32 * 2 * 32 * 96 * 2,
    "command-r7b": 32 * 2 * 8 * 128 * 2,
    "exaone-4-32b": 64 * 2 * 8 * 128 * 2,
    "gpt-oss-20b": 24 * 2 * 8 * 64 * 2,
    "llama4-scout": 48 * 2 * 8 * 128 * 2,
    "qwen3-30b-a3b": 48 * 2 * 4 * 128 * 2,
    "glm-4.5-air": 46 * 2 * 8 * 128 * 2,
    "deepseek-v3": 61 * (512 + 64) * 2,
    "deepseek-v3-uncompressed": 61 * 128 * (192 + 128) * 2,
    "mamba-2.8b": 0,
    "mamba2-2.7b": 0,
    "jamba-v0.1": 4 * 2 * 8 * 128 * 2,
    "falcon-h1-7b": 44 * 2 * 2 * 128 * 2,
    "granite-4-h-small": 4 * 2 * 8 * 128 * 2,
    "nemotron-h-8b": 4 * 2 * 8 * 128 * 2,
    "qwen3-next-80b": 12 * 2 * 2 * 256 * 2,
    "lfm2-1.2b": 6 * 2 * 8 * 64 * 2,
}

# f32: layers * 4 bytes * (columns of the convolution * channels + state). llama.cpp's
# n_embd_r and n_embd_s (llama-hparams.cpp).
STATE_BYTES = {
    "mamba-2.8b": 64 * 4 * (3 * 5120 + 16 * 5120),
    "mamba2-2.7b": 64 * 4 * (3 * (5120 + 2 * 128) + 128 * 5120),
    "jamba-v0.1": 28 * 4 * (3 * 8192 + 16 * 8192),
    "falcon-h1-7b": 44 * 4 * (3 * (3072 + 2 * 256) + 256 * 3072),
    "granite-4-h-small": 36 * 4 * (3 * (8192 + 2 * 128) + 128 * 8192),
    "nemotron-h-8b": 24 * 4 * (3 * (8192 + 2 * 8 * 128) + 128 * 8192),
    "qwen3-next-80b": 36 * 4 * (3 * (4096 + 2 * 16 * 128) + 128 * 4096),
    "lfm2-1.2b": 10 * 4 * 2 * 2048,
}

GROUPS = {
    "gemma-2-9b": [("full", 0, 21), ("swa", 4096, 21)],
    "gemma-3-27b": [("full", 0, 10), ("swa", 1024, 52)],
    "phi-3-mini": [("full", 0, 32)],
    "command-r7b": [("full", 0, 8), ("swa", 4096, 24)],
    "exaone-4-32b": [("full", 0, 16), ("swa", 4096, 48)],
    "gpt-oss-20b": [("full", 0, 12), ("swa", 128, 12)],
    "llama4-scout": [("full", 0, 12), ("chunked", 8192, 36)],
    "qwen3-next-80b": [("full", 0, 12), ("recurrent", 0, 36)],
}

# Parameters of the body in billions, as the model cards say: without an embedding of the
# published size, as the headers here have a tiny one.
BODY = {
    "qwen3-30b-a3b": 30.5 - 2 * 151936 * 2048 / 1e9,
    "deepseek-v3": 671 - 2 * 129280 * 7168 / 1e9,
    "qwen3-next-80b": 79.7 - 2 * 151936 * 2048 / 1e9,
    "granite-4-h-small": 32.2 - 100352 * 4096 / 1e9,
    "jamba-v0.1": 51.6 - 2 * 65536 * 4096 / 1e9,
    "glm-4.5-air": 106.9 - 2 * 151552 * 4096 / 1e9,
}


def write(path: Path, arch: str, keys: dict[str, Any], **outer: Any) -> Path:
    writer = gguf.GGUFWriter(path, arch)
    for key, value in ({f"{arch}.{key}": value for key, value in keys.items()} | outer).items():
        if isinstance(value, list):
            writer.add_array(key, value)
        elif isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        else:
            writer.add_uint32(key, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    return path


@pytest.fixture
def model(tmp_path: Path, request: pytest.FixtureRequest) -> ModelSpec:
    arch, keys = HEADERS[request.param]
    return model_of(write(tmp_path / f"{request.param}.gguf", arch, PLAIN | keys))


@pytest.mark.parametrize(("model", "name"), [(name, name) for name in HEADERS], indirect=["model"])
def test_geometry_of_published_models(model: ModelSpec, name: str) -> None:
    assert model.name == name
    assert model.token_bytes() == TOKEN_BYTES[name]
    assert model.state_bytes == STATE_BYTES.get(name, 0)
    if name in GROUPS:
        assert [(g.kind, g.window, g.layers) for g in model.groups()] == GROUPS[name]
    if name in BODY:
        body = model.parameters - 2 * model.embedding_parameters
        assert body / 1e9 == pytest.approx(BODY[name], rel=0.01)


def test_types_are_those_of_ggml() -> None:
    sizes = {int(kind): size for kind, size in gguf.GGML_QUANT_SIZES.items()}
    # The package counts the sum of a q8_1 block as two floats; ggml keeps two halves.
    assert sizes.pop(9) == (32, 40)
    assert {kind: TENSOR_TYPES[kind] for kind in sizes} == sizes


def test_weights_are_the_tensors_of_the_file() -> None:
    arch, keys = HEADERS["llama-3.1-8b"]
    values = {"general.architecture": arch} | {f"{arch}.{k}": v for k, v in (PLAIN | keys).items()}
    tensors = {
        "token_embd.weight": TensorInfo((4096, 2000), kind=12),
        "blk.0.attn_norm.weight": TensorInfo((4096,), kind=0),
    }
    model = model_from_header(GGUFHeader(values, tensors), "some", "some.gguf")
    assert model.vocab == 2000
    assert model.tied_embeddings
    assert model.weight_bytes == 4096 * 2000 * 144 // 256 + 4096 * 4
    tensors["output.weight"] = TensorInfo((4096, 2000), kind=14)
    model = model_from_header(GGUFHeader(values, tensors), "some", "some.gguf")
    assert not model.tied_embeddings
    # One of several files lists some of the tensors only.
    split = GGUFHeader(values | {"split.count": 3, "general.file_type": 7}, tensors)
    assert model_from_header(split, "some", "some.gguf").bytes_per_parameter == 34 / 32
    odd = GGUFHeader(values, tensors | {"x": TensorInfo((3,), kind=77)})
    with pytest.raises(InputError, match=r"some.gguf: tensor 'x' has the unknown type 77"):
        model_from_header(odd, "some", "some.gguf")


def test_patterns_of_windows_may_be_listed(tmp_path: Path) -> None:
    keys = PLAIN | layers(4, 64, 128) | heads(4, 2, 16) | {"attention.sliding_window": 32}
    pattern = {"attention.sliding_window_pattern": [True, False, True, True]}
    listed = model_of(write(tmp_path / "a.gguf", "newcomer", keys | pattern))
    assert [layer.kind for layer in listed.layers] == ["swa", "full", "swa", "swa"]
    first = model_of(write(tmp_path / "b.gguf", "smallthinker", keys))
    assert [layer.kind for layer in first.layers] == ["full", "swa", "swa", "swa"]


def test_windows_may_have_heads_of_their_own(tmp_path: Path) -> None:
    keys = PLAIN | layers(6, 64, 128) | heads(4, [2, 2, 2, 2, 2, 1], 32)
    keys |= {
        "attention.sliding_window": 16,
        "attention.sliding_window_pattern": [True] * 5 + [False],
        "attention.key_length_swa": 16,
        "attention.value_length_swa": 16,
        "attention.shared_kv_layers": 0,
    }
    full, swa = model_of(write(tmp_path / "a.gguf", "gemma4", keys)).groups()
    assert (full.layers, full.k_elements, full.v_elements) == (1, 32, 32)
    assert (swa.layers, swa.k_elements, swa.v_elements, swa.window) == (5, 32, 32, 16)


def test_vocabulary_is_counted_without_a_key(tmp_path: Path) -> None:
    arch, keys = HEADERS["llama-3.1-8b"]
    tokens = {"tokenizer.ggml.tokens": [f"t{i}" for i in range(321)]}
    path = write(tmp_path / "m.gguf", arch, keys, **tokens)
    assert model_of(path).vocab == 321
    assert model_of(path).bytes_per_parameter == 2.0


@pytest.mark.parametrize("order", ["<", ">"])
def test_version_one_and_big_endian(tmp_path: Path, order: str) -> None:
    path = tmp_path / "old.bin"
    key = b"general.architecture"
    numbers = struct.pack(f"{order}III", 1, 0, 1) + struct.pack(f"{order}I", len(key)) + key
    path.write_bytes(b"GGUF" + numbers + struct.pack(f"{order}II", 8, 2) + b"xy")
    assert read_header(path).values == {"general.architecture": "xy"}


@pytest.mark.parametrize(
    ("arch", "change", "message"),
    [
        ("llama", {"block_count": 0}, "key 'block_count' must be from 1 to 10000, not 0"),
        ("llama", {"attention.head_count_kv": [8, 8]}, "'attention.head_count_kv' has 2 entries"),
        ("llama", {"attention.head_count_kv": 7}, "must be a multiple of kv_heads=7"),
        ("new", {"attention.sliding_window": 8}, "'new' is not known to have a window"),
        ("llama", {"attention.causal": False}, "'llama' does not generate text"),
        ("llama", {"ssm.state_size": 16}, "'llama' is not known to be recurrent"),
        ("deepseek32", {"attention.indexer.top_k": 2048}, "key 'attention.indexer.top_k' tells"),
        ("arwkv7", {"wkv.head_size": 64}, "'arwkv7' is not known to be recurrent"),
    ],
)
def test_what_cannot_be_understood_is_refused(
    tmp_path: Path, arch: str, change: dict[str, Any], message: str
) -> None:
    path = write(tmp_path / "m.gguf", arch, PLAIN | HEADERS["llama-3.1-8b"][1] | change)
    with pytest.raises(InputError, match=message) as caught:
        model_of(path)
    assert str(caught.value).startswith(str(path))


def test_damaged_files(tmp_path: Path) -> None:
    whole = write(tmp_path / "m.gguf", "llama", PLAIN | HEADERS["llama-3.1-8b"][1]).read_bytes()
    path = tmp_path / "cut.gguf"
    for length in (4, 7, 20, 40, len(whole) - 3):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match=f"cut.gguf: is cut off at byte {length}"):
            model_of(path)
    path.write_bytes(b"GGUF" + struct.pack("<I", 9))
    with pytest.raises(InputError, match=r"GGUF version .* is not known"):
        model_of(path)
    path.write_bytes(b"GGML" + whole[4:])
    with pytest.raises(InputError, match=r"a model is a .toml file, a GGUF file, a config.json"):
        model_of(path)
    path.write_bytes(whole[:24] + b"\xff" * 40)
    with pytest.raises(InputError, match="is cut off"):
        model_of(path)
