"""Traffic of the PagedAttention paper as far as it is published: mean lengths and a limit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import repeat

import numpy as np

from workloads.lengths import Lognormal, Tokens
from workloads.plugins import option
from workloads.request import Request
from workloads.synthetic.base import Online
from workloads.synthetic.draws import BATCH

_SAMPLE = 1 << 16


@lru_cache(maxsize=64)
def _laws(
    prompt: float, output: float, spread: tuple[float, float], longest: int
) -> tuple[Lognormal, Lognormal]:
    """Lognormals whose pairs have the wanted means after pairs beyond ``longest`` are dropped."""
    means = [prompt, output]
    for _ in range(8):
        rng = np.random.default_rng(0)
        laws = [
            Lognormal(float(mean), sigma=sigma, longest=longest)
            for mean, sigma in zip(means, spread, strict=True)
        ]
        drawn = np.array([law.draw(rng, _SAMPLE) for law in laws])
        kept = drawn[:, drawn.sum(axis=0) <= longest].mean(axis=1)
        means = [m * wanted / k for m, wanted, k in zip(means, (prompt, output), kept, strict=True)]
    return laws[0], laws[1]


@dataclass(frozen=True, kw_only=True)
class PublishedLengths(Online):
    """Single turns with published mean lengths, prompt and output together within a limit.

    By default those of ShareGPT (SOSP'23, section 6.1). The lognormal shape is an assumption.
    """

    name = "published-lengths"
    prefix_identity = "none: lengths only"

    prompt: float = option(161.31, "mean tokens of a prompt", low=1)
    output: float = option(337.99, "mean tokens of an output", low=1)
    prompt_spread: float = option(1.5, "sigma of the prompts' lognormal", low=0.01, high=4)
    output_spread: float = option(0.8, "sigma of the outputs' lognormal", low=0.01, high=4)
    longest: int = option(2048, "prompt and output together, tokens", low=2)
    samples: int = option(1, "completions of each prompt", low=1)
    beam_width: int = option(1, "width of a beam search; 1: none", low=1)

    def lengths(self, rng: np.random.Generator, n: int) -> tuple[Tokens, Tokens]:
        """Up to ``n`` pairs of prompt and output that keep the limit."""
        spread = (self.prompt_spread, self.output_spread)
        prompt, output = _laws(self.prompt, self.output, spread, self.longest)
        prompts, outputs = prompt.draw(rng, n), output.draw(rng, n)
        fits = prompts + outputs <= self.longest
        return prompts[fits], outputs[fits]

    def sessions(self, rng: np.random.Generator) -> Iterator[list[Request]]:
        """Sessions of one request."""
        while True:
            prompts, outputs = self.lengths(rng, BATCH)
            for request in map(
                Request, repeat(0), repeat(0.0), prompts.tolist(), outputs.tolist(), repeat(None)
            ):
                request.samples, request.beam_width = self.samples, self.beam_width
                yield [request]
