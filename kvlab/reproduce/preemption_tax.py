"""vLLM RFC #54644: what is computed again after preemptions, by whom the scheduler preempts."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kvlab.reproduce.findings import Claim, Number, Reproduction, Sweep

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "Tax of preemption, by who is preempted"
SOURCE = (
    "vLLM RFC #54644 (Preemption victim-selection extension point), its table of measured points"
)
TARGET = (
    "online, mixed prompts: tax and savings within 3 points of the published ranges, at the mean "
    "output that comes nearest, which the source does not state and which is swept; equal prompts: "
    "aggregate waste unchanged; waste in the order least computed, last, random, most computed; "
    "the tax rises as memory falls"
)

VICTIMS = ("least-computed", "last", "random", "most-computed")
MEMORIES = (500, 1000, 2000, 4000)
"""Blocks of 16 tokens."""
PRESSURE = 2000
SEEDS = 6
BLOCK = 16
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Traffic:
    """Requests that are all there at once. prompt, output: length distributions."""

    prompt: str
    output: str
    requests: int


NEAREST = 256
"""Mean output (tokens) that comes nearest to the published ranges."""
OUTPUTS = (64, 128, NEAREST, 512)


def online(prompt: str, output: int) -> Traffic:
    """The online runs: outputs are half as much more or less than their mean."""
    return Traffic(prompt, f"uniform:low={output // 2},high={3 * output // 2}", 800)


MIXED_PROMPTS = "uniform:low=256,high=768"
"""512 tokens, half as much more or less: a random range ratio of 0.5."""
MIXED = online(MIXED_PROMPTS, NEAREST)
EQUAL = online("constant:tokens=512", NEAREST)
OFFLINE = {
    "prompts 400, spread widely, outputs 160": Traffic(
        "lognormal:tokens=400,sigma=0.8,longest=2000", "uniform:low=16,high=304", 300
    ),
    "prompts 256, outputs 304": Traffic(
        "uniform:low=128,high=384", "uniform:low=152,high=456", 300
    ),
    "prompts 64, outputs 496": Traffic("uniform:low=32,high=96", "uniform:low=248,high=744", 300),
}
"""560 tokens a request, as 623,948 wasted tokens in a tax of 78.8 % leave for 300 requests."""
PUBLISHED_OFFLINE = {400: (78.8, 43.0), 800: (57.9, 40.0), 1600: (32.2, 59.0), 2800: (0.0, None)}
"""Blocks of memory: tax (%), and what least-computed-first saves of it (%)."""


@dataclass(frozen=True)
class Waste:
    """tax: share of all computed tokens that were computed before. tokens: how many these are.

    each: tokens per preemption.
    """

    tax: float
    tokens: int
    each: float


@cache
def waste(traffic: Traffic, blocks: int, victim: str, seed: int) -> Waste:
    """One run. All requests are there at once, so nothing depends on how long steps take."""
    from kvlab.config import RunConfig
    from kvlab.running import run

    config = RunConfig(
        policy="paged",
        policy_options={"prefix_cache": False},
        scheduler="vllm-victims",
        scheduler_options={"victim": victim, "victim_seed": seed},
        workload="batch",
        workload_options={"prompt": traffic.prompt, "output": traffic.output},
        requests=traffic.requests,
        kv_tokens=BLOCK * (blocks + 1),  # one block stays empty
        max_batched_tokens=2048,
        max_model_len=4096,
        seed=seed,
    )
    summary = run(config, with_maps=False).summary
    again, times = summary["recomputed_tokens"], summary["preemptions"]
    return Waste(again / summary["computed_tokens"], again, again / times if times else 0.0)


def _medians(traffic: Traffic, blocks: int, seeds: int) -> tuple[float, float, float]:
    """Tax of preempting the last, what least-computed-first saves, in all and each time (%)."""
    last = [waste(traffic, blocks, "last", seed) for seed in range(seeds)]
    least = [waste(traffic, blocks, "least-computed", seed) for seed in range(seeds)]
    pairs = list(zip(last, least, strict=True))
    tax = float(np.median([each.tax for each in last]))
    if not all(each.tokens for each in last):
        return 100 * tax, 0.0, 0.0
    total = float(np.median([1 - b.tokens / a.tokens for a, b in pairs]))
    each = float(np.median([1 - b.each / a.each for a, b in pairs]))
    return 100 * tax, 100 * total, 100 * each


def reproduce(data: Path | None) -> Reproduction:
    """The online points over seeds; then other memories, outputs, and the offline points."""
    del data
    tax, saved, each = _medians(MIXED, PRESSURE, SEEDS)
    equal = _medians(EQUAL, PRESSURE, SEEDS)
    wasted = {
        victim: [waste(MIXED, PRESSURE, victim, seed).tokens for seed in range(SEEDS)]
        for victim in VICTIMS
    }
    medians = {victim: float(np.median(values)) for victim, values in wasted.items()}
    less = [a < b for a, b in zip(wasted["least-computed"], wasted["last"], strict=True)]
    by_memory = [_medians(MIXED, blocks, 3)[0] for blocks in MEMORIES]
    return Reproduction(
        numbers=(
            Number("online, mixed: tax, last first", (10.0, 23.0), tax, "%", 3.0),
            Number("saved by least computed first", (24.0, 30.0), saved, "%", 3.0),
            Number("saved of each preemption's waste", (35.0, 41.0), each, "%", 3.0),
            Number("online, prompts of 512: tax, last first", (10.0, 23.0), equal[0], "%", 3.0),
            Number("saved by least computed first, prompts of 512", 0.0, equal[1], "%", 2.0),
        ),
        claims=(
            Claim(
                "least computed first wastes least, then the last, random, most computed",
                ", ".join(f"{victim} {medians[victim]:,.0f}" for victim in VICTIMS)
                + " tokens (medians)",
                list(medians.values()) == sorted(medians.values()),
            ),
            Claim(
                "least computed first wastes less than the last",
                f"in {sum(less)} of {SEEDS} seeds",
                all(less),
            ),
            Claim(
                "the tax rises as memory falls",
                ", ".join(
                    f"{value:.1f} % at {blocks:,}"
                    for blocks, value in zip(MEMORIES, by_memory, strict=True)
                )
                + " blocks",
                by_memory == sorted(by_memory, reverse=True),
            ),
        ),
        sweeps=(_memories(), _outputs(), _offline()),
        leaves_open=(
            "How long the outputs of its online runs are, and how many blocks 'under KV pressure' "
            "means: as far as its text could be read it says neither, so both are swept. Of the "
            f"outputs tried {NEAREST} comes nearest; with the 128 tokens that vLLM's benchmark "
            "generates by default, least computed first saves more than published.",
            "The lengths of its offline requests. The wasted tokens and the tax leave 560 useful "
            "tokens a request; three ways of dividing them are shown without a target. None comes "
            "near its tax of 78.8 % at 400 blocks, or has none at 2,800, so those runs were "
            "something else than any of these.",
            "What it reports of times (equal throughput; with equal prompts a better tail) depends "
            "on its devices and is not compared.",
        ),
        notes=(
            "The tax is the share of all computed tokens that had been computed before. Medians: "
            f"{SEEDS} seeds for the figures, 3 in the tables of assumptions (2 offline). Prefix "
            "caching is off, steps have at most 2,048 tokens, 256 sequences run at once.",
        ),
        curves={"wasted": wasted},
    )


def _row(name: str, found: tuple[float, float, float]) -> tuple[str, ...]:
    return (name, *(f"{value:.1f}" for value in found))


COLUMNS = ("tax (%)", "saved (%)", "saved each time (%)")


def _memories() -> Sweep:
    rows = [_row(f"{blocks:,}", _medians(MIXED, blocks, 3)) for blocks in MEMORIES]
    published = ("published", "10 to 23", "24 to 30", "35 to 41")
    return Sweep(
        "memory, online and mixed (what least computed first saves)",
        ("blocks", *COLUMNS),
        (*rows, published),
    )


def _outputs() -> Sweep:
    rows = [
        _row(str(tokens), _medians(online(MIXED_PROMPTS, tokens), PRESSURE, 3))
        for tokens in OUTPUTS
    ]
    published = ("published", "10 to 23", "24 to 30", "35 to 41")
    return Sweep(
        "mean output, online and mixed (what least computed first saves)",
        ("tokens", *COLUMNS),
        (*rows, published),
    )


def _offline() -> Sweep:
    rows = []
    for blocks, (tax, saved) in PUBLISHED_OFFLINE.items():
        for name, traffic in OFFLINE.items():
            found = _medians(traffic, blocks, 2)
            rows.append((f"{blocks:,}", name, f"{found[0]:.1f}", f"{found[1]:.1f}"))
        rows.append((f"{blocks:,}", "published", f"{tax:.1f}", "" if saved is None else f"{saved}"))
    return Sweep(
        "lengths of the offline requests (what least computed first saves)",
        ("blocks", "tokens a request", "tax (%)", "saved (%)"),
        tuple(rows),
    )


def draw(found: Reproduction) -> Figure:
    """Tokens computed again under each rule, one dot a seed, the median marked."""
    from matplotlib.figure import Figure

    from reports.style import BLUE

    figure = Figure(figsize=(7, 2.4))
    axes = figure.subplots()
    for row, victim in enumerate(VICTIMS):
        values = [value / 1000 for value in found.curves["wasted"][victim]]
        axes.plot(values, [row] * len(values), "o", color=BLUE, markersize=4, alpha=0.5)
        axes.plot([float(np.median(values))], [row], "|", color=BLUE, markersize=18)
    axes.set_yticks(range(len(VICTIMS)), VICTIMS)
    axes.set_ylim(len(VICTIMS) - 0.5, -0.5)
    axes.set_xlim(left=0)
    axes.set_xlabel("tokens computed again (thousands); a dot a seed, the line is the median")
    return figure
