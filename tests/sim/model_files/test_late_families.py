"""Gemma 3n and 4, Kimi Linear, RWKV, and older families: what they cache, published parameters.

Fields are those of the published configs; all that is counted is written out.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sim.budget import Budget
from sim.hardware import hardware_of
from sim.layers import AttentionSpec, LayerSpec
from sim.model import ModelSpec
from sim.model_files.gguf_file import GGUFHeader, TensorInfo
from sim.model_files.gguf_model import model_from_header
from sim.model_files.lookup import model_of
from sim.plugins import policy_of
from sim.sharding import shard_of
from sim.step import Reads, Work
from sim.timing.roofline import Roofline
from workloads.errors import InputError

SLIDING, FULL = "sliding_attention", "full_attention"
GEMMA3N = {"model_type": "gemma3n_text", "num_attention_heads": 8, "num_key_value_heads": 2}
GEMMA4 = {"model_type": "gemma4_text", "num_attention_heads": 8, "num_key_value_heads": 1}
LARGE4 = {
    "model_type": "gemma4_text",
    "attention_k_eq_v": True,
    "hidden_size_per_layer_input": 0,
    "sliding_window": 1024,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "gemma-3n-e4b": GEMMA3N | {"num_hidden_layers": 35, "intermediate_size": [16384] * 35},
    "gemma-3n-e2b": GEMMA3N
    | {
        "num_hidden_layers": 30,
        "num_kv_shared_layers": 10,
        "intermediate_size": [8192] * 30,
        "layer_types": ([SLIDING] * 4 + [FULL]) * 6,
    },
    "gemma-4-e2b": GEMMA4
    | {
        "hidden_size": 1536,
        "intermediate_size": 6144,
        "num_hidden_layers": 35,
        "num_kv_shared_layers": 20,
        "use_double_wide_mlp": True,
        "layer_types": ([SLIDING] * 4 + [FULL]) * 7,
    },
    "gemma-4-e4b": GEMMA4
    | {
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "num_hidden_layers": 42,
        "num_key_value_heads": 2,
        "num_kv_shared_layers": 18,
    },
    "gemma-4-31b": LARGE4
    | {
        "hidden_size": 5376,
        "intermediate_size": 21504,
        "num_hidden_layers": 60,
        "num_attention_heads": 32,
        "num_key_value_heads": 16,
        "num_global_key_value_heads": 4,
    },
    "gemma-4-26b-a4b": LARGE4
    | {
        "hidden_size": 2816,
        "intermediate_size": 2112,
        "num_hidden_layers": 30,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "num_global_key_value_heads": 2,
        "enable_moe_block": True,
        "num_experts": 128,
        "top_k_experts": 8,
        "moe_intermediate_size": 704,
    },
    "gpt-j-6b": {
        "model_type": "gptj",
        "n_embd": 4096,
        "n_layer": 28,
        "n_head": 16,
        "n_positions": 2048,
        "n_inner": None,
        "rotary_dim": 64,
        "vocab_size": 50400,
        "tie_word_embeddings": False,
    },
    "bloom-7b1": {
        "model_type": "bloom",
        "hidden_size": 4096,
        "n_layer": 30,
        "n_head": 32,
        "vocab_size": 250880,
    },
    "mpt-7b": {
        "model_type": "mpt",
        "d_model": 4096,
        "n_layers": 32,
        "n_heads": 32,
        "expansion_ratio": 4,
        "max_seq_len": 2048,
        "vocab_size": 50432,
        "attn_config": {"attn_type": "multihead_attention", "alibi": True},
    },
    "dbrx": {
        "model_type": "dbrx",
        "d_model": 6144,
        "n_layers": 40,
        "n_heads": 48,
        "max_seq_len": 32768,
        "vocab_size": 100352,
        "attn_config": {"kv_n_heads": 8, "clip_qkv": 8},
        "ffn_config": {"ffn_hidden_size": 10752, "moe_num_experts": 16, "moe_top_k": 4},
    },
    "glm-4-9b-chat": {
        "model_type": "chatglm",
        "hidden_size": 4096,
        "num_layers": 40,
        "num_attention_heads": 32,
        "multi_query_attention": True,
        "multi_query_group_num": 2,
        "ffn_hidden_size": 13696,
        "kv_channels": 128,
        "padded_vocab_size": 151552,
        "seq_length": 131072,
    },
    "dots.llm1": {
        "model_type": "dots1",
        "hidden_size": 4096,
        "intermediate_size": 10944,
        "num_hidden_layers": 62,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "head_dim": 128,
        "first_k_dense_replace": 1,
        "moe_intermediate_size": 1408,
        "n_routed_experts": 128,
        "n_shared_experts": 2,
        "num_experts_per_tok": 6,
        "vocab_size": 152064,
    },
    "kimi-linear-48b": {
        "model_type": "kimi_linear",
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "num_hidden_layers": 27,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "kv_lora_rank": 512,
        "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64,
        "v_head_dim": 128,
        "first_k_dense_replace": 1,
        "moe_intermediate_size": 1024,
        "num_experts": 256,
        "num_experts_per_token": 8,
        "num_shared_experts": 1,
        "vocab_size": 163840,
        "tie_word_embeddings": False,
        "linear_attn_config": {
            "full_attn_layers": [4, 8, 12, 16, 20, 24, 27],
            "kda_layers": [i for i in range(1, 28) if i not in (4, 8, 12, 16, 20, 24, 27)],
            "head_dim": 128,
            "num_heads": 32,
            "short_conv_kernel_size": 4,
        },
    },
}

# f16: layers that cache * 2 (K and V) * heads of K and V * head size * 2 bytes, full layers and
# windowed ones; of MLA the latent and the rotary key.
TOKEN_BYTES = {
    "gemma-3n-e4b": (4 + 16) * 2 * 2 * 256 * 2,
    "gemma-3n-e2b": (4 + 16) * 2 * 2 * 256 * 2,
    "gemma-4-e2b": 3 * 2 * 1 * 512 * 2 + 12 * 2 * 1 * 256 * 2,
    "gemma-4-e4b": 4 * 2 * 2 * 512 * 2 + 20 * 2 * 2 * 256 * 2,
    "gemma-4-31b": 10 * 2 * 4 * 512 * 2 + 50 * 2 * 16 * 256 * 2,
    "gemma-4-26b-a4b": 5 * 2 * 2 * 512 * 2 + 25 * 2 * 8 * 256 * 2,
    "kimi-linear-48b": 7 * (512 + 64) * 2,
    "gpt-j-6b": 28 * 2 * 16 * 256 * 2,
    "bloom-7b1": 30 * 2 * 32 * 128 * 2,
    "mpt-7b": 32 * 2 * 32 * 128 * 2,
    "dbrx": 40 * 2 * 8 * 128 * 2,
    "glm-4-9b-chat": 40 * 2 * 2 * 128 * 2,
    "dots.llm1": 62 * 2 * 32 * 128 * 2,
}

# (kind, window, layers that cache, layers that borrow)
GROUPS = {
    "gemma-3n-e4b": [("full", 0, 4, 3), ("swa", 512, 16, 12)],
    "gemma-3n-e2b": [("full", 0, 4, 2), ("swa", 512, 16, 8)],
    "gemma-4-e2b": [("full", 0, 3, 4), ("swa", 512, 12, 16)],
    "gemma-4-e4b": [("full", 0, 4, 3), ("swa", 512, 20, 15)],
    "gemma-4-31b": [("full", 0, 10, 0), ("swa", 1024, 50, 0)],
    "gemma-4-26b-a4b": [("full", 0, 5, 0), ("swa", 1024, 25, 0)],
    "kimi-linear-48b": [("full", 0, 7, 0), ("recurrent", 0, 20, 0)],
    "gpt-j-6b": [("full", 0, 28, 0)],
    "bloom-7b1": [("full", 0, 30, 0)],
    "mpt-7b": [("full", 0, 32, 0)],
    "dbrx": [("full", 0, 40, 0)],
    "glm-4-9b-chat": [("full", 0, 40, 0)],
    "dots.llm1": [("full", 0, 62, 0)],
}

# Billions as they were published: llama.cpp's logs for Gemma 3n; model cards for the others.
# Those of Gemma 4's small ones count encoders of images and sounds too, and are left out.
PUBLISHED = {
    "gemma-3n-e4b": 6.87,
    "gemma-3n-e2b": 4.46,
    "gemma-4-31b": 30.7,
    "gemma-4-26b-a4b": 25.2,
    "kimi-linear-48b": 49.1,
    "gpt-j-6b": 6.05,
    "bloom-7b1": 7.07,
    "mpt-7b": 6.65,
    "dbrx": 132,
    "glm-4-9b-chat": 9.40,
    "dots.llm1": 143,
}
READ = {"gemma-4-e2b": 2.3, "gemma-4-e4b": 4.6, "gemma-4-26b-a4b": 3.8}
"""Billions that a token meets: ``effective`` (without the layers' own inputs), or active."""


def model_from(folder: Path, name: str, **change: Any) -> ModelSpec:
    path = folder / f"{name}.json"
    path.write_text(json.dumps(CONFIGS[name] | change))
    return model_of(path)


@pytest.mark.parametrize("name", CONFIGS)
def test_cache_geometry(tmp_path: Path, name: str) -> None:
    model = model_from(tmp_path, name)
    assert model.token_bytes() == TOKEN_BYTES[name]
    found = [(g.kind, g.window, g.layers, len(g.borrowers)) for g in model.groups()]
    assert found == GROUPS[name]
    if name in PUBLISHED:
        digit = 0.05 if PUBLISHED[name] < 100 else 0.5
        assert model.parameters / 1e9 == pytest.approx(PUBLISHED[name], abs=digit)
    if name in READ:
        met = model.active_parameters - model.unread
        assert met / 1e9 == pytest.approx(READ[name], abs=0.06)


def test_states_of_kimi_linear(tmp_path: Path) -> None:
    model = model_from(tmp_path, "kimi-linear-48b")
    # Three convolutions of 4 taps, and a matrix a head, in f32.
    assert model.state_bytes == 20 * 4 * (3 * 3 * 32 * 128 + 32 * 128 * 128)


def test_parameters_of_a_layer_of_gemma_3n(tmp_path: Path) -> None:
    first, *_, middle, last = model_from(tmp_path, "gemma-3n-e4b").layers
    attention = 2048 * (8 + 2 + 2 + 8) * 256
    around = 4**3 + 4**2 + 4 * 2048 + 2 * 64 * 2048 + 2 * 256 * 2048
    borrowing = attention - 2048 * (2 + 2) * 256 + 3 * 2048 * 16384 + around
    assert middle.common_parameters(2048) == borrowing
    assert last.common_parameters(2048) == borrowing + 3 * 2048**2
    inputs = 35 * 256 * 2048
    assert first.common_parameters(2048) == (
        attention + 3 * 2048 * 16384 + around + inputs + 3 * 2048**2
    )
    # The table of the layers' inputs, and projections of K and V that 15 layers do not use.
    unread = 262144 * 35 * 256 + 15 * 2048 * 2 * 2 * 256
    assert model_from(tmp_path, "gemma-3n-e4b").unread == unread


def test_borrowing_layers_are_read_and_not_stored(tmp_path: Path) -> None:
    model = model_from(tmp_path, "gemma-3n-e4b")
    budget = Budget(model, bytes=1 << 30)
    sheet = hardware_of("h100")
    fast = replace(sheet, flops=sheet.flops * 1e9)
    full, swa = model.groups()

    def attention_seconds(cells: tuple[int, int]) -> float:
        reads = tuple(Reads(n, n, 0) for n in cells)
        nothing = tuple(Reads(0, 0, 0) for _ in cells)
        roofline = Roofline(budget, fast)
        return roofline.seconds(Work(1, 1, reads)) - roofline.seconds(Work(1, 1, nothing))

    bandwidth = sheet.memory_bandwidth * sheet.memory_efficiency
    # 4 layers cache and 3 more read what they have cached.
    assert attention_seconds((10**6, 0)) == pytest.approx(10**6 * 7 * 2048 / bandwidth)
    assert attention_seconds((0, 10**6)) == pytest.approx(10**6 * 28 * 2048 / bandwidth)
    assert budget.cell_bytes_of(full) == 4 * 2048
    assert budget.cell_bytes_of(swa) == 16 * 2048


@pytest.mark.parametrize("policy", ["ring", "iswa", "paged", "radix", "contiguous", "summary"])
def test_policies_lay_out_what_is_cached(tmp_path: Path, policy: str) -> None:
    model = model_from(tmp_path, "gemma-3n-e2b")
    made = policy_of(policy, Budget(model, bytes=1 << 30, max_seqs=4))
    capacity = sum(part.capacity * part.cell_bytes for part in made.usage())
    assert 0.9 * 2**30 < capacity <= 2**30


def test_devices_divide_what_is_looked_up(tmp_path: Path) -> None:
    model = model_from(tmp_path, "gemma-3n-e4b")
    half = shard_of(model, 2)
    assert half.unread == model.unread // 2
    assert half.layers[5].others == model.layers[5].others
    assert half.token_bytes() == model.token_bytes() // 2
    assert [len(g.borrowers) for g in half.groups()] == [3, 12]


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("gemma-3n-e4b", {"intermediate_size": [1, 2]}, "'intermediate_size' has 2 entries"),
        ("gemma-3n-e4b", {"layer_types": [SLIDING] * 34 + [FULL]}, "layer 34 borrows K and V"),
        ("gemma-4-e2b", {"per_layer_config": {}}, "'per_layer_config' is not read"),
        ("kimi-linear-48b", {"num_hidden_layers": 28}, "expected each of the 28 layers"),
    ],
)
def test_what_cannot_be_understood_is_refused(
    tmp_path: Path, name: str, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        model_from(tmp_path, name, **change).groups()


def header(arch: str, keys: dict[str, Any], tensors: dict[str, Any] | None = None) -> ModelSpec:
    values = {"general.architecture": arch} | {f"{arch}.{key}": v for key, v in keys.items()}
    return model_from_header(GGUFHeader(values, tensors or {}), "some", "some.gguf")


def test_gguf_of_gemma_3n(tmp_path: Path) -> None:
    keys = {
        "block_count": 30,
        "embedding_length": 2048,
        "feed_forward_length": [8192] * 30,
        "attention.head_count": 8,
        "attention.head_count_kv": 2,
        "attention.key_length": 256,
        "attention.value_length": 256,
        "attention.sliding_window": 512,
        "altup.num_inputs": 4,
        "altup.active_idx": 0,
        "embedding_length_per_layer_input": 256,
        "context_length": 32768,
        "vocab_size": 262144,
    }
    model = header("gemma3n", keys)
    # llama.cpp caches 20 layers of it, whether the file says how many share or not.
    assert model.token_bytes() == 20 * 2 * 2 * 256 * 2
    assert header("gemma3n", keys | {"attention.shared_kv_layers": 10}) == model
    other = replace(model_from(tmp_path, "gemma-3n-e2b"), vocab=262144, name="some")
    # The file has the projections that nobody uses; they are not counted here.
    idle = 10 * 2048 * 2 * 2 * 256
    assert model == replace(other, unread=other.unread - idle)


def test_gguf_of_gemma_4() -> None:
    keys = {
        "block_count": 6,
        "embedding_length": 256,
        "feed_forward_length": 512,
        "attention.head_count": 8,
        "attention.head_count_kv": [4, 4, 1, 4, 4, 1],
        "attention.key_length": 64,
        "attention.value_length": 64,
        "attention.key_length_swa": 32,
        "attention.value_length_swa": 32,
        "attention.sliding_window": 512,
        "attention.sliding_window_pattern": [True, True, False] * 2,
        "attention.shared_kv_layers": 3,
        "embedding_length_per_layer_input": 0,
        "expert_count": 8,
        "expert_used_count": 2,
        "expert_feed_forward_length": 64,
        "vocab_size": 100,
    }
    tensors = {f"blk.{i}.attn_norm.weight": TensorInfo((256,), kind=0) for i in range(6)}
    tensors |= {f"blk.{i}.attn_v.weight": TensorInfo((256, 128), kind=0) for i in (0, 1)}
    tensors |= {f"blk.{i}.ffn_gate_inp.weight": TensorInfo((256, 8), kind=0) for i in range(6)}
    model = header("gemma4", keys, tensors)
    full, swa = model.groups()
    assert (full.layer_ids, full.borrowers, full.k_elements) == ((2,), (5,), 64)
    assert (swa.layer_ids, swa.borrowers, swa.k_elements) == ((0, 1), (3, 4), 128)
    attention = [layer.attention for layer in model.layers]
    assert [each is not None and each.k_is_v for each in attention] == [False, False, True] + [
        False
    ] * 3
    # The dense feed-forward stands beside the experts.
    part = model.layers[0].feed_forward
    assert part is not None
    assert (part.experts, part.intermediate, part.shared) == (8, 64, 512)


def test_gguf_of_rwkv_7() -> None:
    keys = {
        "block_count": 24,
        "embedding_length": 2048,
        "feed_forward_length": 8192,
        "attention.head_count": 0,
        "wkv.head_size": 64,
        "token_shift_count": 2,
        "attention.decay_lora_rank": 96,
        "attention.iclr_lora_rank": 96,
        "attention.value_residual_mix_lora_rank": 64,
        "attention.gate_lora_rank": 256,
        "vocab_size": 65536,
    }
    model = header("rwkv7", keys)
    # Two tokens before, and a 64 x 64 matrix for each of 32 heads, in f32.
    assert model.state_bytes == 24 * 4 * (2 * 2048 + 32 * 64 * 64)
    assert model.token_bytes() == 0
    # RWKV-7 World 1.5B has 1.53 billion.
    assert model.parameters / 1e9 == pytest.approx(1.53, abs=0.01)
    six = header("rwkv6", keys | {"time_mix_extra_dim": 32, "time_decay_extra_dim": 64})
    assert six.state_bytes == model.state_bytes
    # RWKV-6 World 1.6B has 1.6 billion.
    assert header("rwkv6", keys | {
        "feed_forward_length": 7168, "time_mix_extra_dim": 32, "time_decay_extra_dim": 64
    }).parameters / 1e9 == pytest.approx(1.60, abs=0.01)  # fmt: skip
    with pytest.raises(InputError, match="states of RWKV are not divided"):
        shard_of(model, 2)
    with pytest.raises(InputError, match="'rwkv9' is not known to be recurrent"):
        header("rwkv9", keys)


def test_gguf_of_kimi_linear() -> None:
    model = header(
        "kimi-linear",
        {
            "block_count": 4,
            "embedding_length": 2304,
            "feed_forward_length": 9216,
            "attention.head_count": 32,
            "attention.head_count_kv": [0, 0, 0, 1],
            "attention.key_length": 576,
            "attention.value_length": 512,
            "attention.key_length_mla": 192,
            "attention.value_length_mla": 128,
            "attention.kv_lora_rank": 512,
            "rope.dimension_count": 64,
            "kda.head_dim": 128,
            "ssm.conv_kernel": 4,
            "vocab_size": 1000,
        },
    )
    assert model.token_bytes() == (512 + 64) * 2
    assert model.state_bytes == 3 * 4 * (3 * 3 * 32 * 128 + 32 * 128 * 128)


def test_a_layer_cannot_borrow_from_nobody() -> None:
    shape = AttentionSpec(heads=2, kv_heads=1, head_dim_k=8, head_dim_v=8, borrows=True)
    model = ModelSpec("some", (LayerSpec(attention=shape),), hidden=16, vocab=10)
    with pytest.raises(InputError, match="layer 0 borrows K and V that no layer before it has"):
        model.groups()
