"""StreamingLLM (ICLR'24): endless text in a bounded cache of attention sinks and a window."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from kvlab.reproduce.findings import Claim, Number, Reproduction

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "Attention sinks and a window against computing the window again"
SOURCE = "StreamingLLM, ICLR'24, sections 1 and 4.5 (Llama-2-7B and 13B on an A6000)"
TARGET = (
    "the cache stays within sinks and window and the sinks never move; the cost of a token grows "
    "with the cache, with recomputation faster, so that the gain rises with the cache"
)

SINKS = 4
CACHES = (256, 512, 1024, 2048, 4096)
TOKENS = 3000
WINDOW = 256
SHAPES = {"Llama-2-7B": (32, 4096, 32, 11008), "Llama-2-13B": (40, 5120, 40, 13824)}
"""Layers, width, heads, width of the feed-forward part."""
A6000 = {"memory_bytes": 48 * 2**30, "memory_bandwidth": 768e9, "flops": 154.8e12}
"""NVIDIA's data sheet; efficiencies and overheads are those of the A100's sheet."""


def streamed() -> dict[str, Any]:
    """Run TOKENS tokens through `ring` with a window; the most cells, and the sinks' cells."""
    from sim.budget import Budget
    from sim.model_files.lookup import model_of
    from sim.plugins import policy_of
    from sim.sequence import Sequence
    from sim.step import Run, Step
    from workloads.request import Request

    model = model_of("llama-3.1-8b")
    budget = Budget(model, bytes=2 * WINDOW * model.token_bytes())
    policy = policy_of("ring", budget, {"window": WINDOW, "sinks": SINKS, "discard": 0.0})
    seq = Sequence(0, Request(0, 0.0, 1, TOKENS))
    most, first, moved = 0, None, False
    for start in range(TOKENS):
        assert policy.allocate(seq, 1)
        seq.computed, seq.tokens = start + 1, start + 2
        policy.commit(Step([Run(seq, start, 1)]))
        most = max(most, int(policy.usage()[0].live))
        if start + 1 >= SINKS:
            cells = policy.cells_of(seq)[1][:SINKS].tolist()
            first = cells if first is None else first
            moved |= cells != first
    return {"most": most, "moved": moved}


def times_of(name: str) -> tuple[list[float], list[float]]:
    """Seconds of one token by cache size: kept as it is, and with the window computed again."""
    from dataclasses import replace

    from sim.budget import Budget
    from sim.hardware import hardware_of
    from sim.model import AttentionSpec, FeedForwardSpec, LayerSpec, ModelSpec
    from sim.reads import exact_reads
    from sim.sequence import Sequence
    from sim.step import Placement, Run, Step
    from sim.timing.roofline import Roofline
    from sim.work import work_of
    from workloads.request import Request

    layers, hidden, heads, wide = SHAPES[name]
    attention = AttentionSpec(heads=heads, kv_heads=heads, head_dim_k=128, head_dim_v=128)
    layer = LayerSpec(attention=attention, feed_forward=FeedForwardSpec(intermediate=wide))
    model = ModelSpec(name=name, layers=(layer,) * layers, hidden=hidden, vocab=32000)
    sheet = replace(hardware_of("a100-80"), name="a6000", flops_fp8=None, **A6000)  # type: ignore[arg-type]
    clock = Roofline(Budget(model, bytes=1 << 40), sheet)

    def seconds(start: int, n: int) -> float:
        seq = Sequence(0, Request(0, 0.0, 1, start + n))
        seq.computed = start + n
        seq.tokens = start + n
        step = Step([Run(seq, start, n)])
        reads = exact_reads(model.groups(), step.runs)
        return float(clock.seconds(work_of(step, Placement(step.runs, reads))))

    return [seconds(n - 1, 1) for n in CACHES], [seconds(0, n) for n in CACHES]


def reproduce(data: Path | None) -> Reproduction:
    """Stream through the policy; price both ways to go on with a full window."""
    del data
    seen = streamed()
    times = {name: times_of(name) for name in SHAPES}
    gains = {
        name: [again / kept for kept, again in zip(*both, strict=True)]
        for name, both in times.items()
    }
    largest = max(max(values) for values in gains.values())
    growth = [both[1][-1] / both[1][0] for both in times.values()]
    slower = [both[0][-1] / both[0][0] for both in times.values()]
    return Reproduction(
        numbers=(
            Number(f"most cells of {TOKENS:,} tokens", WINDOW, seen["most"], "cells", 0, digits=0),
            Number("largest gain, cache of 4,096", 22.2, largest, "times"),
        ),
        claims=(
            Claim("the sinks stay where they are", f"moved: {seen['moved']}", not seen["moved"]),
            Claim(
                "the gain rises with the cache",
                "; ".join(
                    f"{name} {', '.join(f'{gain:.1f}' for gain in values)}"
                    for name, values in gains.items()
                ),
                all(values == sorted(values) for values in gains.values()),
            ),
            Claim(
                "16 times the cache costs a kept token far less than one computed again",
                f"kept {slower[0]:.2f} times as long, computed again {growth[0]:.1f} times",
                all(a < b / 4 for a, b in zip(slower, growth, strict=True)),
            ),
        ),
        leaves_open=(
            "Which share of the device's peak its kernels reach; the gain of 22.2 depends on it, "
            "so it has no target. Here a token that is kept pays one pass over the weights.",
            "The quality of the output, for which kvlab has no opinion: it stores no text.",
        ),
        curves={
            "cache": list(CACHES),
            "kept_s": {name: both[0] for name, both in times.items()},
            "again_s": {name: both[1] for name, both in times.items()},
        },
    )


def draw(found: Reproduction) -> Figure:
    """Time of a token against the size of the cache, both ways."""
    from reports.plots.curves import Curve, Scale, dashed, figure_of_curves
    from reports.style import DASHED, SOLID, looks_of

    looks = looks_of(SHAPES)
    curves = [
        Curve(
            f"{name}, {words}",
            found.curves["cache"],
            [1e3 * value for value in values],
            dashed(looks[name], dash),
        )
        for column, dash, words in (
            ("again_s", DASHED, "window computed again"),
            ("kept_s", SOLID, "sinks and window kept"),
        )
        for name, values in found.curves[column].items()
    ]
    return figure_of_curves(
        curves, Scale("cache (tokens)", "log2", CACHES), Scale("time of one token (ms)", "log10")
    )
