"""KV memory: worked examples, and the sizes that llama.cpp itself reports."""

import gzip
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.dtypes import kv_type
from sim.layers import AttentionSpec, LayerSpec
from sim.llamacpp.sizes import ContextParams, sizes_of, swa_cells
from sim.memory import memory_report, plain_layers, tokens_that_fit
from sim.model_files.lookup import model_of
from workloads.errors import InputError

MIB = 1 << 20
SHARED = Path(os.environ.get("KVLAB_SHARED", Path(__file__).parents[3] / "shared"))
RECORDED = SHARED / "conformance" / "llamacpp" / "memsize.jsonl.gz"

PLAIN = plain_layers(layers=32, kv_heads=8, head_dim=128)


@pytest.mark.parametrize(
    ("context", "kind", "mib"), [(2048, "int8", 128), (32768, "int8", 2048), (2048, "q8_0", 136)]
)
def test_worked_example(context: int, kind: str, mib: int) -> None:
    assert memory_report(PLAIN, context, kv_type=kind).bytes == mib * MIB


def test_interleaved_windows_of_gemma_3_27b() -> None:
    model = model_of("gemma-3-27b")
    report = memory_report(model, context=32768, sequences=1, ubatch=512, kv_type="f16")
    assert report.bytes == 3184 * MIB
    assert [(row.kind, row.layers, row.cells) for row in report.rows] == [
        ("full", 10, 32768),
        ("swa", 52, 1536),
    ]
    assert memory_report(model, 32768, swa_full=True).bytes == 15872 * MIB


def test_types_of_k_and_v() -> None:
    (row,) = memory_report(PLAIN, 512, kv_type="f16", kv_type_v="q4_0").rows
    assert row.bytes_k == 512 * 32 * 8 * 128 * 2
    assert row.bytes_v * 32 == 512 * 32 * 8 * 128 * 18


def test_states_do_not_grow_with_the_context() -> None:
    model = model_of("mamba-2.8b")
    (row,) = memory_report(model, context=10_000, sequences=4).rows
    assert (row.kind, row.cells, row.bytes) == ("recurrent", 4, 4 * model.state_bytes)
    assert tokens_that_fit(model, 4 * model.state_bytes, sequences=4) is None
    assert tokens_that_fit(model, 4 * model.state_bytes - 1, sequences=4) == 0


def test_images_are_kept_beside_the_text() -> None:
    attention = AttentionSpec(heads=8, kv_heads=8, head_dim_k=128, head_dim_v=128)
    image = replace(attention, kind="cross", window=6404)
    layers = [LayerSpec(attention=attention)] * 32 + [LayerSpec(attention=image)] * 8
    text = memory_report(layers, 1024)
    assert [row.kind for row in text.rows] == ["full"]
    row = memory_report(layers, 1024, sequences=2, images=3).rows[-1]
    assert (row.kind, row.layers, row.cells) == ("cross", 8, 6 * 6404)
    assert row.bytes == 8 * 6 * 6404 * 2 * 8 * 128 * 2
    room = text.bytes + memory_report(layers, 1024, images=1).rows[-1].bytes
    assert tokens_that_fit(layers, room, images=1) == 1024


def test_blocks_of_vllm() -> None:
    report = memory_report(
        model_of("gemma-3-27b"), context=5000, sequences=3, ubatch=2049, block_size=16
    )
    # 5000 tokens are 313 blocks; 1023 + 2049 tokens are 192, and one for the ragged start.
    assert [row.cells for row in report.rows] == [3 * 313 * 16, 3 * 193 * 16]
    full = memory_report(model_of("gemma-3-27b"), 5000, 3, 2049, block_size=16, swa_full=True)
    assert [row.cells for row in full.rows] == [3 * 313 * 16] * 2


@pytest.mark.parametrize(
    ("asked", "sequences", "unified", "context", "share", "streams"),
    [
        (300, 3, False, 768, 256, 3),
        (300, 3, True, 512, 512, 1),
        (65536, 8, False, 65536, 8192, 8),
        (1, 1, False, 256, 256, 1),
    ],
)
def test_contexts_of_llama_cpp(
    asked: int, sequences: int, unified: bool, context: int, share: int, streams: int
) -> None:
    sizes = sizes_of(ContextParams(n_seq_max=sequences, kv_unified=unified), asked)
    assert (sizes.n_ctx, sizes.n_ctx_seq, sizes.n_stream) == (context, share, streams)


def recorded() -> Iterator[dict[str, Any]]:
    with gzip.open(RECORDED, "rt") as lines:
        yield from map(json.loads, lines)


# Of the recorded tiny models: windows from the recordings' headers.
WINDOWS = {"gemma2": 16, "gemma2all": 16, "gemma3": 32, "llama4": 8192}


@pytest.mark.skipif(not RECORDED.exists(), reason=f"no recorded cache sizes at {RECORDED}")
def test_cache_sizes_that_llama_cpp_reports() -> None:
    elements: dict[tuple[str, int], int] = {}
    checked = 0
    for record in recorded():
        asked = record["config"]
        params = ContextParams(
            n_batch=512,
            n_ubatch=asked["n_ubatch"],
            n_seq_max=asked["n_seq_max"],
            kv_unified=asked["kv_unified"],
            swa_full=asked["swa_full"],
        )
        sizes = sizes_of(params, asked["n_ctx"])
        assert (sizes.n_ctx, sizes.n_ctx_seq) == (record["n_ctx"], record["n_ctx_seq"])
        assert (sizes.n_batch, sizes.n_ubatch) == (record["n_batch"], record["n_ubatch"])
        states = [cache["cells"] for cache in record["caches"] if cache["kind"] == "rs"]
        assert states in ([], [sizes.n_seq_max])
        attention = [cache for cache in record["caches"] if cache["kind"] == "kv"]
        for index, cache in enumerate(attention):
            window = WINDOWS[asked["model"]] if index else 0
            cells = swa_cells(window, params, sizes) if index else sizes.n_ctx_seq
            assert (cache["cells"], cache["n_stream"]) == (cells, sizes.n_stream)
            for side in "kv":
                row = sizes.n_stream * cells * cache["layers"]
                known = elements.setdefault(
                    (asked["model"], index),
                    cache["bytes_k"] // (2 * row) if row and asked["type_k"] == "f16" else 0,
                )
                expected = row * kv_type(asked[f"type_{side}"]).bytes_of(known)
                assert cache[f"bytes_{side}"] == expected
                checked += 1
    assert checked > 2000


geometries = st.builds(
    plain_layers, layers=st.integers(1, 5), kv_heads=st.integers(1, 8), head_dim=st.just(64)
)


@settings(deadline=None, max_examples=60)
@given(
    model=geometries | st.sampled_from(["gemma-3-1b", "deepseek-v3"]).map(model_of),
    size=st.integers(0, 1 << 36),
    sequences=st.integers(1, 9),
    block_size=st.none() | st.sampled_from([1, 16, 48]),
    unified=st.booleans(),
    kind=st.sampled_from(["f16", "q4_0"]),
)
def test_what_fits_is_the_longest_that_fits(
    model: Any, size: int, sequences: int, block_size: int | None, unified: bool, kind: str
) -> None:
    options: dict[str, Any] = {"block_size": block_size, "unified": unified, "kv_type": kind}
    tokens = tokens_that_fit(model, size, sequences, **options)
    assert tokens is not None
    assert tokens == 0 or memory_report(model, tokens, sequences, **options).bytes <= size
    assert memory_report(model, tokens + 1, sequences, **options).bytes > size


def test_windowed_layers_alone_fit_any_context() -> None:
    mistral = model_of("mistral-7b")
    enough = memory_report(mistral, 1 << 20).bytes
    assert tokens_that_fit(mistral, enough) is None
    assert tokens_that_fit(mistral, enough, swa_full=True) == 4096 + 512


def test_bad_numbers() -> None:
    with pytest.raises(InputError, match="context must be at least 1"):
        memory_report(PLAIN, 0)
    with pytest.raises(InputError, match="block_size must be at least 1"):
        memory_report(PLAIN, 1, block_size=0)
    with pytest.raises(InputError, match="layers must be at least 1"):
        plain_layers(0, 8, 128)
    with pytest.raises(InputError, match="multiple of 32"):
        memory_report(plain_layers(2, 1, 80), 256, kv_type="q8_0")
