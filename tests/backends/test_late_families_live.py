"""Caches of models whose layers borrow K and V as llama.cpp makes them, from tiny files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sim.memory import memory_report
from sim.model_files.lookup import model_of

pytest.importorskip("xllamacpp", reason="llama.cpp is not installed (extra: conformance)")
gguf = pytest.importorskip("gguf", reason="gguf is not installed (extra: conformance)")

HIDDEN, VOCAB, FFN, HEADS, KV, HEAD = 64, 96, 96, 4, 2, 16
Shapes = dict[str, tuple[int, ...]]


def attention(head: int, own: bool = True) -> Shapes:
    """Shapes as NumPy has them: rows out, columns in."""
    shapes: Shapes = {
        "attn_q.weight": (HEADS * head, HIDDEN),
        "attn_output.weight": (HIDDEN, HEADS * head),
        "attn_q_norm.weight": (head,),
    }
    if own:
        shapes |= {
            "attn_k.weight": (KV * head, HIDDEN),
            "attn_v.weight": (KV * head, HIDDEN),
            "attn_k_norm.weight": (head,),
        }
    return shapes


BODY: Shapes = {
    "attn_norm.weight": (HIDDEN,),
    "post_attention_norm.weight": (HIDDEN,),
    "ffn_norm.weight": (HIDDEN,),
    "post_ffw_norm.weight": (HIDDEN,),
    "ffn_gate.weight": (FFN, HIDDEN),
    "ffn_up.weight": (FFN, HIDDEN),
    "ffn_down.weight": (HIDDEN, FFN),
}
OWN_INPUT: Shapes = {
    "inp_gate.weight": (256, HIDDEN),
    "proj.weight": (HIDDEN, 256),
    "post_norm.weight": (HIDDEN,),
}
STREAMS: Shapes = {
    "altup_correct_coef.weight": (4, 4),
    "altup_correct_scale.weight": (HIDDEN,),
    "altup_predict_coef.weight": (16, 4),
    "altup_router.weight": (4, HIDDEN),
    "altup_router_norm.weight": (HIDDEN,),
    "laurel_l.weight": (64, HIDDEN),
    "laurel_r.weight": (HIDDEN, 64),
    "laurel_post_norm.weight": (HIDDEN,),
}


def write(path: Path, arch: str, keys: dict[str, Any], tensors: Shapes) -> Path:
    writer = gguf.GGUFWriter(path, arch)
    for key, value in keys.items():
        add = {bool: writer.add_bool, float: writer.add_float32, list: writer.add_array}
        add.get(type(value), writer.add_uint32)(f"{arch}.{key}", value)
    pieces = ["<unk>", "<s>", "</s>", "<0x0A>"] + [f"t{i}" for i in range(4, VOCAB)]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(pieces)
    writer.add_token_scores([0.0] * VOCAB)
    writer.add_token_types([2, 3, 3, 6] + [1] * (VOCAB - 4))
    rng = np.random.default_rng(1)
    for name, shape in tensors.items():
        writer.add_tensor(name, rng.normal(0.0, 0.05, shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


COMMON = {
    "context_length": 32768,
    "embedding_length": HIDDEN,
    "feed_forward_length": FFN,
    "attention.layer_norm_rms_epsilon": 1e-6,
    "attention.head_count": HEADS,
    "attention.head_count_kv": KV,
    "vocab_size": VOCAB,
}


def of_layers(n: int, layer: Any) -> Shapes:
    return {f"blk.{i}.{name}": shape for i in range(n) for name, shape in layer(i).items()}


def gemma3n(path: Path) -> Path:
    n = 25
    keys = COMMON | {
        "block_count": n,
        "attention.key_length": HEAD,
        "attention.value_length": HEAD,
        "attention.sliding_window": 32,
        "altup.num_inputs": 4,
        "altup.active_idx": 0,
        "embedding_length_per_layer_input": 256,
    }
    top: Shapes = {
        "token_embd.weight": (VOCAB, HIDDEN),
        "output_norm.weight": (HIDDEN,),
        "per_layer_token_embd.weight": (VOCAB, 256 * n),
        "per_layer_model_proj.weight": (256 * n, HIDDEN),
        "per_layer_proj_norm.weight": (256,),
        "altup_proj.weight": (3, HIDDEN, HIDDEN),
        "altup_unembd_proj.weight": (3, HIDDEN, HIDDEN),
    }
    layers = of_layers(n, lambda i: attention(HEAD) | BODY | OWN_INPUT | STREAMS)
    return write(path, "gemma3n", keys, top | layers)


def gemma4(path: Path) -> Path:
    n, own = 12, 6
    keys = COMMON | {
        "block_count": n,
        "attention.key_length": 2 * HEAD,
        "attention.value_length": 2 * HEAD,
        "attention.key_length_swa": HEAD,
        "attention.value_length_swa": HEAD,
        "rope.dimension_count": 2 * HEAD,
        "rope.dimension_count_swa": HEAD,
        "attention.sliding_window": 32,
        "attention.sliding_window_pattern": [i % 3 != 2 for i in range(n)],
        "attention.shared_kv_layers": n - own,
        "embedding_length_per_layer_input": 256,
    }
    top: Shapes = {
        "token_embd.weight": (VOCAB, HIDDEN),
        "output_norm.weight": (HIDDEN,),
        "rope_freqs.weight": (HEAD,),
        "per_layer_token_embd.weight": (VOCAB, 256 * n),
        "per_layer_model_proj.weight": (256 * n, HIDDEN),
        "per_layer_proj_norm.weight": (256,),
    }
    layers = of_layers(
        n, lambda i: attention(HEAD * (1 if i % 3 != 2 else 2), i < own) | BODY | OWN_INPUT
    )
    return write(path, "gemma4", keys, top | layers)


@pytest.fixture
def live() -> Iterator[tuple[Any, Any]]:
    """llama.cpp and its log."""
    from backends.recorder.library import LogCallback, find_library, load_library
    from backends.recorder.log import Log

    library = load_library(find_library())
    yield library, Log(library)
    library.llama_log_set(LogCallback(), None)


@pytest.mark.parametrize("make", [gemma3n, gemma4])
@pytest.mark.parametrize("sequences", [1, 3])
def test_caches_as_llama_cpp_logs_them(
    make: Any, sequences: int, live: tuple[Any, Any], tmp_path: Path
) -> None:
    from backends.recorder.context import LiveContext, LiveModel
    from backends.recorder.script import DEFAULTS

    path = make(tmp_path / f"{make.__name__}.gguf")
    loaded = LiveModel(*live, path)
    # Without flash attention llama.cpp makes rows of V as wide as the widest layer's.
    sizes = {"n_ctx": 1024 * sequences, "n_batch": 256, "n_ubatch": 64, "n_seq_max": sequences}
    context = LiveContext(loaded, DEFAULTS | sizes | {"flash_attn": True})
    logged = [(each["cells"], each["layers"]) for each in context.caches.values()]
    mebibytes = [
        float(size)
        for size in re.findall(r"cache: size = +([0-9.]+) MiB", "".join(context.size_lines))
    ]
    context.close()
    loaded.close()
    report = memory_report(
        model_of(path), context=1024, sequences=sequences, ubatch=64, unified=True
    )
    assert [(row.cells, row.layers) for row in report.rows] == logged
    assert [(row.bytes_k + row.bytes_v) / 2**20 for row in report.rows] == pytest.approx(
        mebibytes, abs=0.006
    )
