"""llama-server as it is, in a process of its own, against the scheduler: tokens found per request.

The server of the package ``xllamacpp`` serves a tiny random model one request after the other;
each goes on from an earlier one, asks it again, branches off, or is new. What it says of tokens
found in its caches (``cache_n``) is what the scheduler must find: slots, checkpoints, host cache.
"""

from __future__ import annotations

import random

import pytest
import real_llama_server

from sim.budget import Budget
from sim.plugins import policy_of, scheduler_of
from sim.sequence import Sequence
from workloads.prefix import PrefixTree
from workloads.request import Request

pytest.importorskip("xllamacpp", reason="needs the extra 'conformance'")
pytest.importorskip("gguf", reason="needs the extra 'conformance'")

SERVER = """
server = xllamacpp.Server(params)
rng = random.Random(asked["seed"])
served = []
for _ in range(asked["requests"]):
    kind = rng.choice(["next", "again", "branch", "new"]) if served else "new"
    before = rng.choice(served[-4:]) if served else None
    fresh = [rng.randrange(4, 60) for _ in range(rng.randint(1, 150))]
    if kind == "next":
        prompt = before["prompt"] + before["output"] + fresh
    elif kind == "again":
        prompt = before["prompt"]
    elif kind == "branch":
        prompt = before["prompt"][: rng.randint(1, len(before["prompt"]))] + fresh
    else:
        prompt = fresh + fresh
    if len(prompt) > 800:
        prompt = fresh
    answer = server.handle_completions({
        "prompt": prompt, "n_predict": rng.randint(1, 90), "ignore_eos": True,
        "temperature": 0.0, "cache_prompt": True,
        "logit_bias": [[special, False] for special in range(4)],
    })
    text = answer["choices"][0]["text"].replace("t", " ").split()
    served.append({
        "prompt": prompt, "output": [int(t) for t in text],
        "found": answer["timings"]["cache_n"], "n": answer["timings"]["predicted_n"],
    })
print(json.dumps(served))
"""


@pytest.mark.parametrize(
    ("model", "policy", "unified", "cache_ram"),
    [
        ("llama", "ring", False, 8192),
        ("llama", "ring", True, 1),
        ("gemma3", "iswa", False, 1),
        ("gemma3", "iswa", True, 8192),
        ("mamba", "recurrent", False, 8192),
        ("mamba", "recurrent", False, -1),
        ("mamba", "recurrent", True, 1),
        ("jamba", "hybrid", False, 8192),
        ("jamba", "hybrid", True, -1),
    ],
)
def test_finds_as_many_tokens_as_the_engine(tmp_path, model, policy, unified, cache_ram):
    seed = random.SystemRandom().randrange(1 << 30)
    print(f"seed {seed}")
    params = {
        "n_ctx": 2048,
        "n_parallel": 2,
        "kv_unified": unified,
        "n_batch": 128,
        "n_ubatch": 64,
        "n_ctx_checkpoints": 4,
        "checkpoint_min_step": 100,
        "cache_ram_mib": cache_ram,
    }
    asked = {"model": model, "seed": seed, "requests": 20, "params": params}
    served = real_llama_server.served(SERVER, folder=str(tmp_path), **asked)
    spec = real_llama_server.model_like(model)
    size = 2048 * spec.token_bytes() + 2 * spec.state_bytes
    slot = 2048 if unified else 1024
    budget = Budget(spec, size, max_seqs=2, max_batched_tokens=128, max_model_len=slot)
    layout = {"ubatch": 64, "streams": "unified" if unified else "per-sequence"}
    cache = policy_of(policy, budget, layout)
    options = {"ctx_checkpoints": 4, "checkpoint_min_step": 100, "cache_ram": cache_ram}
    scheduler = scheduler_of("llama-server", cache, options)
    tree, found = PrefixTree(), []
    for number, each in enumerate(served):
        assert len(each["output"]) == each["n"]
        path = tree.path(each["prompt"] + each["output"])
        seq = Sequence(number, Request(number, 0.0, len(each["prompt"]), each["n"], path))
        scheduler.add(seq)
        while scheduler.has_work:
            step = scheduler.schedule()
            cache.commit(step)
            scheduler.update(step)
        found.append(seq.hit)
    assert found == [each["found"] for each in served], seed
    assert sum(found) > 0
