"""llama-server with drafts, as it is, against the scheduler: drafted and accepted per request.

The server of the package ``xllamacpp`` drafts with the served model itself and accepts as it is
told (``--spec-synth-rates``): rates of one and nothing, so that nothing is left to chance. What it
says of each request (tokens drafted, accepted, generated, and found in its caches) must be what
the scheduler does. Seeds are fixed: a drafted end of text is never accepted, and whether the model
drafts one is chance.
"""

from __future__ import annotations

import pytest
import real_llama_server

from sim.budget import Budget
from sim.drafter import DraftModel
from sim.hardware import hardware_of
from sim.plugins import policy_of, scheduler_of
from sim.sequence import Sequence
from sim.speculation import Speculation
from sim.timing.roofline import Roofline
from workloads.prefix import PrefixTree
from workloads.request import Request

pytest.importorskip("xllamacpp", reason="needs the extra 'conformance'")
pytest.importorskip("gguf", reason="needs the extra 'conformance'")

SERVER = """
speculative = params.speculative
speculative.types = [xllamacpp.common_speculative_type.COMMON_SPECULATIVE_TYPE_DRAFT_SIMPLE]
speculative.synth_rates = asked["rates"]
draft = speculative.draft
draft.mparams.path = str(path)
draft.n_max, draft.n_min, draft.p_min, draft.n_gpu_layers = len(asked["rates"]), 0, 0.0, 0
draft.cpuparams.n_threads = draft.cpuparams_batch.n_threads = 1
server = xllamacpp.Server(params)
rng = random.Random(asked["seed"])
served = []
for _ in range(14):
    fresh = [rng.randrange(4, 60) for _ in range(rng.randint(1, 60))]
    # The drafting model is not kept from special tokens, which have no text: nobody goes on there.
    whole = [each for each in served if len(each["output"]) == each["n"]]
    before = rng.choice(whole) if whole and rng.random() < 0.6 else None
    prompt = before["prompt"] + before["output"] + fresh if before else fresh
    if len(prompt) > 120:
        prompt = fresh
    tokens = rng.choice([1, 2, 3, rng.randint(1, 60), 1000])
    answer = server.handle_completions({
        "prompt": prompt, "n_predict": tokens,
        "ignore_eos": True, "temperature": 0.0, "cache_prompt": True,
        "logit_bias": [[special, False] for special in range(4)],
    })
    text = answer["choices"][0]["text"].replace("t", " ").split()
    timings = answer["timings"]
    served.append({
        "asked": tokens, "prompt": prompt, "output": [int(t) for t in text],
        "found": timings["cache_n"], "n": timings["predicted_n"],
        "drafted": timings.get("draft_n", 0), "accepted": timings.get("draft_n_accepted", 0),
    })
print(json.dumps(served))
"""


def served_here(served, rates, policy, unified, model):
    """Found, drafted, accepted and generated tokens of the same requests, one after the other."""
    spec = real_llama_server.model_like(model)
    slot = 512 if unified else 256
    size = 512 * spec.token_bytes()
    budget = Budget(spec, size, max_seqs=2, max_batched_tokens=128, max_model_len=slot)
    layout = {"ubatch": 64, "streams": "unified" if unified else "per-sequence"}
    cache = policy_of(policy, budget, layout)
    scheduler = scheduler_of("llama-server", cache, {"cache_ram": 0, "ctx_checkpoints": 0})
    clock = Roofline.of(budget, hardware_of("h100"), "")
    scheduler.speculate(Speculation(rates, drafter=DraftModel(spec, clock)))
    tree, names = PrefixTree(), ("drafted_tokens", "accepted_tokens", "decode_tokens")
    before, found = [0, 0, 0], []
    for number, each in enumerate(served):
        unknown = [-1 - number] * (each["asked"] - len(each["output"]))
        path = tree.path(each["prompt"] + each["output"] + unknown)
        seq = Sequence(number, Request(number, 0.0, len(each["prompt"]), each["asked"], path))
        scheduler.add(seq)
        while scheduler.has_work:
            step = scheduler.schedule()
            cache.commit(step)
            scheduler.update(step)
        counts = [scheduler.counts[name] for name in names]
        drafted, accepted, decoded = (a - b for a, b in zip(counts, before, strict=True))
        before = counts
        found.append((seq.hit, drafted, accepted, 1 + decoded))
    return found


@pytest.mark.parametrize(
    ("model", "policy", "unified", "seed"),
    [
        ("llama", "ring", False, 1),
        ("llama", "ring", True, 2),
        ("gemma3", "iswa", False, 4),
    ],
)
@pytest.mark.parametrize("rates", [[1.0, 1.0, 0.0, 0.0], [1.0] * 6])
def test_drafts_and_accepts_as_the_engine(tmp_path, model, policy, unified, seed, rates):
    params = {
        "n_ctx": 512,
        "n_parallel": 2,
        "kv_unified": unified,
        "n_batch": 128,
        "n_ubatch": 64,
        "cache_ram_mib": 0,
        "n_ctx_checkpoints": 0,
    }
    asked = {"model": model, "seed": seed, "rates": rates, "params": params}
    served = real_llama_server.served(SERVER, folder=str(tmp_path), **asked)
    expected = [(each["found"], each["drafted"], each["accepted"], each["n"]) for each in served]
    assert served_here(served, rates, policy, unified, model) == expected
    assert sum(each["drafted"] for each in served) > 100
    assert any(each["n"] < each["asked"] for each in served)
