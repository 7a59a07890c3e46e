"""Files of measured times, made up: a layerwise profile, attention tables, a calibration."""

from __future__ import annotations

import json
from math import sqrt
from pathlib import Path

import pandas as pd

from sim.timing import terms
from sim.timing.attention_tables import DECODE, PREFILL

LLAMA = {"num_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "kv_cache_dtype": "bfloat16"}
"""The shape of Llama-3.1-8B's attention, as aiconfigurator's tables say it."""

DENSE = ("embedding", "layernorm", "qkv_proj", "o_proj", "gate_up_proj", "down_proj", "act_fn")


def attention_us(chunk, prefix, n, length):
    """What the hand-made profile says: linear in each, but with a product of two."""
    return 2.0 + 0.01 * chunk + 0.0001 * chunk * prefix + 0.5 * n + 0.001 * n * length


def crooked_us(*where):
    """The same, bent, so that no closed form adds it up."""
    return 1 + sqrt(attention_us(*where))


def write_profile(root: Path, attention=attention_us, skew=True) -> Path:
    root.mkdir(exist_ok=True)
    dense = [f"{name},{t},{base + 0.1 * t}" for base, name in enumerate(DENSE, 1) for t in (1, 101)]
    (root / "dense.csv").write_text("\n".join(["layer,tokens,time_us", *dense]))
    heads = [f"{name},{n},{10 + n}" for name in ("lm_head", "sampler") for n in (1, 65)]
    (root / "per_sequence.csv").write_text("\n".join(["layer,sequences,time_us", *heads]))
    rows = ["prefill_chunk,kv_prefill,n_decode,kv_decode,time_us"]
    for chunk in (0, 16, 64, 256):
        for prefix in (0, 512, 2048) if chunk else (0,):
            for n in (0, 1, 8, 64):
                for length in (16, 1024, 4096) if n else (0,):
                    if chunk or n:
                        time = attention(chunk, prefix, n, length)
                        rows.append(f"{chunk},{prefix},{n},{length},{time}")
    (root / "attention.csv").write_text("\n".join(rows))
    if skew:
        rows = ["regime,n,nb,ratio,skew,pc,kp,kvs,kv_big,t_mean_us,alpha"]
        for chunk in (0, 16, 256):
            for n in (2, 8, 64):
                for long in (1, n // 2):
                    for prefix in (0, 2048) if chunk else (0,):
                        for big in (64, 512, 4096):
                            alpha = 0.5 * long / n
                            rows.append(f"x,{n},{long},0,4.0,{chunk},{prefix},1,{big},9,{alpha}")
        (root / "skew.csv").write_text("\n".join(dict.fromkeys(rows)))
    return root


def write_attention_tables(root: Path) -> str:
    """Decodes: 1 ms + 10 us a cell; prefills: 1 ms + 1 us a pair. The path of the decodes."""
    decode = [
        {"batch_size": b, "isl": 1, "step": n - 1, "latency": 1 + b * n / 100}
        for b in (1, 4, 16)
        for n in (2, 64, 1024)
    ]
    prefill = [
        {"batch_size": b, "isl": n, "step": 0, "latency": 1 + b * n * (n + 1) / 2 / 1e3}
        for b in (1, 4)
        for n in range(1, 129)
    ]
    for name, rows in ((DECODE, decode), (PREFILL, prefill)):
        frame = pd.DataFrame(rows).assign(**LLAMA, window_size=0)
        frame.to_parquet(root / f"a_{name}.parquet")
    return str(root / f"a_{DECODE}.parquet")


def write_calibration(path: Path, model: str, kind: str = "f16") -> Path:
    """Of a device on which every coefficient is another odd number."""
    kernels = [terms.GEMM, terms.COPY, terms.SWAP_OUT, terms.SWAP_IN]
    kernels += [
        f"{each} {kind}" for each in (terms.DECODE, terms.PREFILL, terms.WRITE, terms.SHIFT)
    ]
    models = {}
    for number, kernel in enumerate(kernels, 3):
        form = terms.form_of(kernel)
        models[kernel] = {
            "fixed": 1e-6 / number,
            "sums": {name: 1e-8 / (number + at) for at, name in enumerate(form.sums)},
            "limits": {name: 1e-12 / (number + at) for at, name in enumerate(form.limits)},
        }
    data = {
        "schema": 1,
        "model": model,
        "kv_types": [kind],
        "matrices": [[4096, 6144, 32], [4096, 28672, 32], [4096, 128256, 1]],
        "element_bytes": 2,
        "models": models,
        "device": "made up",
        "date": "2000-01-01",
        "errors": {},
        "points": [],
    }
    path.write_text(json.dumps(data))
    return path
