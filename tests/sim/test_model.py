"""Model arithmetic against published counts and sums written out."""

import pickle
from dataclasses import replace

import numpy as np
import pytest

from sim.model import AttentionSpec, FeedForwardSpec, LayerSpec, ModelSpec, StateSpec
from sim.model_files.lookup import model_names, model_of
from workloads.errors import InputError

PUBLISHED = {
    "llama-3.1-8b": 8.03e9,
    "llama-3.1-70b": 70.6e9,
    "opt-13b": 12.85e9,
    "mistral-7b": 7.24e9,
    "gemma-3-27b": 27.0e9,
    "gemma-2-9b": 9.24e9,
    "ministral-8b": 8.02e9,
    "qwen3-32b": 32.8e9,
    "deepseek-v3": 671e9,
    "mamba-2.8b": 2.77e9,
    "lfm2-1.2b": 1.17e9,
    "jamba-v0.1": 52e9,
}

TOKEN_BYTES = {
    "llama-3.1-8b": 32 * 2 * 8 * 128 * 2,
    "llama-3.1-70b": 80 * 2 * 8 * 128 * 2,
    "opt-13b": 40 * 2 * 40 * 128 * 2,
    "mistral-7b": 32 * 2 * 8 * 128 * 2,
    "ministral-8b": 36 * 2 * 8 * 128 * 2,
    "gemma-2-9b": 42 * 2 * 8 * 256 * 2,
    "gemma-3-1b": 26 * 2 * 1 * 256 * 2,
    "gemma-3-4b": 34 * 2 * 4 * 256 * 2,
    "gemma-3-12b": 48 * 2 * 8 * 256 * 2,
    "gemma-3-27b": 62 * 2 * 16 * 128 * 2,
    "qwen3-32b": 64 * 2 * 8 * 128 * 2,
    "deepseek-v3": 61 * (512 + 64) * 2,
    "mamba-2.8b": 0,
    "lfm2-1.2b": 6 * 2 * 8 * 64 * 2,
    "jamba-v0.1": 4 * 2 * 8 * 128 * 2,
}

GROUPS = {
    "mistral-7b": [("swa", 4096, 32)],
    "ministral-8b": [("full", 0, 9), ("swa", 32768, 27)],
    "gemma-2-9b": [("full", 0, 21), ("swa", 4096, 21)],
    "gemma-3-1b": [("full", 0, 4), ("swa", 512, 22)],
    "gemma-3-4b": [("full", 0, 5), ("swa", 1024, 29)],
    "gemma-3-12b": [("full", 0, 8), ("swa", 1024, 40)],
    "gemma-3-27b": [("full", 0, 10), ("swa", 1024, 52)],
    "deepseek-v3": [("full", 0, 61)],
    "mamba-2.8b": [("recurrent", 0, 64)],
    "lfm2-1.2b": [("full", 0, 6), ("recurrent", 0, 10)],
    "jamba-v0.1": [("full", 0, 4), ("recurrent", 0, 28)],
}


@pytest.mark.parametrize(("name", "published"), PUBLISHED.items())
def test_parameters_as_published(name: str, published: float) -> None:
    assert model_of(name).parameters == pytest.approx(published, rel=0.01)


def test_active_parameters() -> None:
    deepseek = model_of("deepseek-v3")
    # The report says 37 B; README_WEIGHTS.md of the model says 36.7 B, head included.
    assert deepseek.active_parameters == pytest.approx(37e9, rel=0.02)
    assert deepseek.linear_flops_per_token / 2 == pytest.approx(36.7e9, rel=0.01)
    llama = model_of("llama-3.1-8b")
    assert llama.active_parameters == llama.parameters


@pytest.mark.parametrize(("name", "expected"), TOKEN_BYTES.items())
def test_bytes_of_a_token(name: str, expected: int) -> None:
    assert model_of(name).token_bytes("f16") == expected
    assert model_of(name).token_bytes("q8_0") * 32 * 2 == expected * 34
    assert model_of(name).token_bytes("f16", "int8") <= expected
    assert set(TOKEN_BYTES) == set(model_names())


@pytest.mark.parametrize(("name", "expected"), GROUPS.items())
def test_groups(name: str, expected: list[tuple[str, int, int]]) -> None:
    groups = model_of(name).groups()
    assert [(group.kind, group.window, group.layers) for group in groups] == expected
    layers = sorted(layer for group in groups for layer in group.layer_ids)
    assert layers == list(range(len(model_of(name).layers)))


def test_every_sixth_layer_of_gemma_3_is_full() -> None:
    full, windowed = model_of("gemma-3-12b").groups()
    assert full.layer_ids == tuple(range(5, 48, 6))
    assert windowed.layer_ids[:6] == (0, 1, 2, 3, 4, 6)
    (together,) = model_of("gemma-3-12b").groups(windowed=False)
    assert together.cell_bytes("f16") == full.cell_bytes("f16") + windowed.cell_bytes("f16")
    assert (together.kind, together.window) == ("full", 0)


def test_mla_caches_one_latent_for_all_heads() -> None:
    (group,) = model_of("deepseek-v3").groups()
    assert (group.kv_heads, group.k_elements, group.v_elements) == (1, 576, 0)
    assert group.pair_flops == 2 * 128 * (576 + 512)


def test_state_bytes_follow_llama_cpp() -> None:
    # R is (d_conv - 1) * d_inner and S is d_state * d_inner, both f32, in each layer.
    assert model_of("mamba-2.8b").state_bytes == 64 * 4 * (3 * 5120 + 16 * 5120)
    mamba2 = StateSpec(kind="mamba2", d_inner=64, d_conv=4, d_state=16, heads=4, groups=2)
    assert (mamba2.conv_elements, mamba2.state_elements) == (3 * (64 + 2 * 2 * 16), 16 * 64)


def test_llama_flops_by_hand() -> None:
    attention = 4096 * (32 + 2 * 8) * 128 + 32 * 128 * 4096
    layers = 32 * (attention + 3 * 4096 * 14336)
    model = model_of("llama-3.1-8b")
    assert model.linear_flops_per_token == 2 * (layers + 128256 * 4096)
    assert model.head_flops_per_token == 2 * 128256 * 4096
    assert model.groups()[0].pair_flops == 2 * 32 * (128 + 128)


def test_tied_embedding_counts_once_but_works_twice() -> None:
    tied = model_of("gemma-3-4b")
    untied = replace(tied, tied_embeddings=False)
    assert untied.parameters - tied.parameters == 262208 * 2560
    assert untied.linear_flops_per_token == tied.linear_flops_per_token
    assert untied.read_weight_bytes(1) == tied.read_weight_bytes(1)


def test_read_weights() -> None:
    dense = model_of("llama-3.1-8b")
    assert dense.read_weight_bytes(1) == dense.read_weight_bytes(500)
    assert dense.read_weight_bytes(1) == dense.weight_bytes - 2 * 128256 * 4096
    sparse = model_of("deepseek-v3")
    assert sparse.read_weight_bytes(1) == pytest.approx(sparse.linear_flops_per_token / 2)
    everything = sparse.weight_bytes - 129280 * 7168
    assert sparse.read_weight_bytes(10_000) == pytest.approx(everything)


def test_expected_experts_agree_with_drawing_them() -> None:
    part = FeedForwardSpec(intermediate=8, experts=16, active_experts=4)
    random = np.random.default_rng(5)
    seen = [
        len({int(e) for _ in range(6) for e in random.choice(16, 4, replace=False)})
        for _ in range(3000)
    ]
    assert part.visited_experts(6) == pytest.approx(np.mean(seen), rel=0.01)
    assert part.visited_experts(1) == pytest.approx(4)


def test_side_by_side_layer_is_in_two_groups() -> None:
    layer = LayerSpec(
        attention=AttentionSpec(heads=4, kv_heads=2, head_dim_k=16, head_dim_v=8),
        state=StateSpec(kind="shortconv", d_inner=32, d_conv=3),
    )
    model = ModelSpec("both", (layer,) * 3, hidden=32, vocab=10)
    full, state = model.groups()
    assert (full.layer_ids, state.layer_ids) == ((0, 1, 2), (0, 1, 2))
    assert full.cell_bytes("f16") == 3 * 2 * (16 + 8) * 2
    assert full.cell_bytes("f16", "f32") == 3 * 2 * (16 * 2 + 8 * 4)
    assert (state.cell_bytes("f16"), model.state_bytes) == (0, 3 * 4 * 2 * 32)


def test_hashable_and_picklable_whatever_was_asked_before() -> None:
    model = model_of("deepseek-v3")
    model.groups(), model.parameters
    copy = pickle.loads(pickle.dumps(model))
    assert copy == model
    assert hash(copy) == hash(model)
    assert len({copy, model, replace(model, name="other")}) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": 0}, "heads must be at least 1, not 0"),
        ({"kv_heads": 3}, r"heads \(8\) must be a multiple of kv_heads=3"),
        ({"kind": "swa"}, "attention kind 'swa' needs window"),
        ({"window": 64}, "attention kind 'full' takes no window"),
        ({"kind": "ful"}, "unknown attention kind 'ful'; did you mean 'full'?"),
        ({"latent": 64}, "latent and rope .* together"),
        ({"latent": 64, "rope": 99}, "rope .* must be part of head_dim_k=32"),
    ],
)
def test_impossible_attention(changes: dict[str, int], message: str) -> None:
    good = {"heads": 8, "kv_heads": 2, "head_dim_k": 32, "head_dim_v": 32}
    AttentionSpec(**good)
    with pytest.raises(InputError, match=message):
        AttentionSpec(**(good | changes))


def test_other_impossible_parts() -> None:
    with pytest.raises(InputError, match="'mamba' needs dt_rank"):
        StateSpec(kind="mamba", d_inner=8, d_conv=4, d_state=4)
    with pytest.raises(InputError, match="active_experts"):
        FeedForwardSpec(intermediate=8, experts=4, active_experts=5)
    with pytest.raises(InputError, match="experts needs active_experts"):
        FeedForwardSpec(intermediate=8, experts=4)
    with pytest.raises(InputError, match="layers must be at least 1"):
        ModelSpec("none", (), hidden=8, vocab=8)
    with pytest.raises(InputError, match="bytes_per_parameter"):
        replace(model_of("opt-13b"), bytes_per_parameter=float("nan"))
