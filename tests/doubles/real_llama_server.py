"""The real llama-server (package ``xllamacpp``) in a process of its own, with a tiny model."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from backends.conformance.llamacpp_models import TINY_MODELS
from sim.layers import AttentionSpec, LayerSpec
from sim.model import ModelSpec
from sim.state import StateSpec

PARAMS = """
import json, random, sys
from pathlib import Path
import xllamacpp
from backends.recorder.tiny_models import write_model
asked = json.loads(sys.argv[1])
path = Path(asked["folder"]) / "model.gguf"
write_model(asked["model"], path, 1)
params = xllamacpp.CommonParams()
params.model.path = str(path)
params.warmup = params.fit_params = False
params.n_gpu_layers = 0
params.verbosity = 0
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
for name, value in asked["params"].items():
    setattr(params, name, value)
"""
"""Makes ``params`` as they are asked for."""


def served(script: str, **asked: Any) -> list[dict]:
    """What ``script`` prints last: it finds `PARAMS` done, starts a server, and asks it.

    asked: ``folder`` for the model's file, name of the ``model``, ``params`` of the server, and
    whatever else the script looks up in ``asked``.
    """
    done = subprocess.run(
        [sys.executable, "-c", PARAMS + script, json.dumps(asked)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def model_like(name: str) -> ModelSpec:
    """The same layers, as far as their caches show."""
    geometry = TINY_MODELS[name]
    layers = []
    for part, kind in ((geometry.full, "full"), (geometry.swa, "swa")):
        if part is not None:
            window = geometry.window.n if kind == "swa" else None
            heads, head = part.k_width // part.head_dim, part.head_dim
            attention = AttentionSpec(
                heads=heads,
                kv_heads=heads,
                head_dim_k=head,
                head_dim_v=head,
                kind=kind,
                window=window,
            )
            layers += [LayerSpec(attention=attention)] * part.layers
    if geometry.recurrent:
        state = StateSpec(kind="mamba", d_inner=256, d_conv=4, d_state=8, dt_rank=8)
        layers += [LayerSpec(state=state)] * geometry.recurrent.layers
    return ModelSpec(name, tuple(layers), hidden=128, vocab=100)
