"""The first arithmetic of every text on KV caches: what is saved, and what it takes."""

from __future__ import annotations

from pathlib import Path

from kvlab.reproduce.findings import Number, Reproduction

TITLE = "What a KV cache saves and takes"
SOURCE = (
    "Worked examples of introductory texts: 1,000 tokens with and without a cache; 32 layers, 8 "
    "K/V heads of 128 elements, one byte an element"
)
TARGET = "equal, but for the sum 1 + 2 + ... + 1,000, which the texts round to half a million"

MIB = 2**20


def computations(policy: str, tokens: int) -> int:
    """K/V rows that ``policy`` computes in each layer until ``tokens`` tokens are there.

    The first token is the prompt and every further one a step, as in the worked example.
    """
    from sim.budget import Budget
    from sim.model_files.lookup import model_of
    from sim.plugins import policy_of
    from sim.sequence import Sequence
    from sim.step import Run, Step
    from workloads.request import Request

    model = model_of("llama-3.1-8b")
    store = policy_of(policy, Budget(model, bytes=2 * tokens * model.token_bytes()))
    seq = Sequence(0, Request(0, 0.0, 1, tokens))
    computed = 0
    for start in range(tokens):
        assert store.allocate(seq, 1)
        seq.computed, seq.tokens = start + 1, start + 2
        placement = store.commit(Step([Run(seq, start, 1)]))
        computed += sum(run.n for run in placement.runs)
    return computed


def reproduce(data: Path | None) -> Reproduction:
    """Run the `none` and the `paged` policy over the tokens; size the caches."""
    del data
    from sim.memory import memory_report, plain_layers

    layers = plain_layers(32, 8, 128)

    def mib(context: int, kv_type: str) -> float:
        return memory_report(layers, context, kv_type=kv_type).bytes / MIB

    return Reproduction(
        numbers=(
            Number(
                "K/V computations for 1,000 tokens, no cache",
                500_000,
                computations("none", 1000),
                within=500,
                digits=0,
            ),
            Number(
                "K/V computations for 1,000 tokens, cache",
                1000,
                computations("paged", 1000),
                within=0,
                digits=0,
            ),
            Number("cache of 2,048 tokens", 128, mib(2048, "int8"), "MiB", 0, digits=0),
            Number("cache of 32,768 tokens", 2048, mib(32768, "int8"), "MiB", 0, digits=0),
            Number("cache of 2,048 tokens as q8_0", None, mib(2048, "q8_0"), "MiB", digits=0),
        ),
        leaves_open=(
            "What one byte an element is: q8_0, the engine's 8-bit type, also stores a scale for "
            "every 32 elements and takes 1/16 more.",
        ),
    )
