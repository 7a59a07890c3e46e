"""Clients that differ: in how much they send, how steadily, and what."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from operator import itemgetter

import numpy as np

from workloads.lengths import MAX_TOKENS
from workloads.plugins import option
from workloads.request import OUTPUTS, Request, Session, Traffic
from workloads.sessions import OpenTraffic, numbered
from workloads.synthetic.base import Synthetic
from workloads.synthetic.draws import BATCH


@dataclass(frozen=True, kw_only=True)
class ClientMix(Synthetic):
    """A mix of clients with own rates, burstiness and lengths, after ServeGen.

    ServeGen (NSDI'26) describes real traffic as the sum of clients of which each is simple: a rate,
    a coefficient of variation of its gaps, and lengths of its own; a few of them send most
    requests. Here the k-th client has a share of 1 / k ** ``zipf`` of the rate, gamma gaps, and
    lognormal lengths of which it has drawn the means. Those means and coefficients are lognormal
    over the clients. The numbers are this project's assumptions; for ServeGen's own clients give
    its data to the reader ``servegen``.

    With ``prefix`` > 0 all prompts of a client begin with that many tokens of its own.
    """

    name = "client-mix"

    rate: float = option(1.0, "mean requests a second of all clients", low=1e-9, high=1e9)
    clients: int = option(50, "clients", low=1, high=100_000)
    zipf: float = option(1.2, "exponent of the clients' rates; 0: even", low=0, high=10)
    cv: float = option(1.5, "median coefficient of variation of gaps", low=0.05, high=20)
    prompt: float = option(600.0, "median of the clients' mean prompts, tokens", low=1, high=1e6)
    output: float = option(250.0, "median of the clients' mean outputs, tokens", low=1, high=1e6)
    spread: float = option(
        0.6, "standard deviation of the logarithms of means and coefficients", low=0, high=3
    )
    sigma: float = option(
        0.8, "standard deviation of the logarithm of lengths within a client", low=0, high=3
    )
    longest: int = option(8192, "longest prompt and output, tokens", low=2, high=MAX_TOKENS)
    prefix: int = option(0, "tokens that all prompts of a client begin with", low=0, high=1e6)

    @property
    def prefix_identity(self) -> str:
        """Exact where clients have prefixes."""
        return "exact" if self.prefix else "none: lengths only"

    def traffic(self) -> Traffic:
        """Fresh traffic; every client draws from a stream of its own."""
        return OpenTraffic(numbered(self._sessions(), self.requests))

    def _sessions(self) -> Iterator[Session]:
        own, *seeds = np.random.SeedSequence(self.seed).spawn(self.clients + 1)
        rng = np.random.default_rng(own)
        weights = np.arange(1, self.clients + 1, dtype=np.float64) ** -self.zipf
        rates = self.rate * weights / weights.sum()
        cvs, prompts, outputs = (
            (median * rng.lognormal(0.0, self.spread, self.clients)).tolist()
            for median in (self.cv, self.prompt, self.output)
        )
        streams = [
            self._client(number, rates[number], cvs[number], prompts[number], outputs[number], seed)
            for number, seed in enumerate(seeds)
        ]
        private = count(OUTPUTS)
        for at, prompt, output, number in heapq.merge(*streams, key=itemgetter(0)):
            path = None
            if self.prefix:
                prompt += self.prefix
                path = ((number, self.prefix), (next(private), prompt + output))
            yield [Request(0, at, prompt, output, path)]

    def _client(
        self,
        number: int,
        rate: float,
        cv: float,
        prompt: float,
        output: float,
        seed: np.random.SeedSequence,
    ) -> Iterator[tuple[float, int, int, int]]:
        """Time, prompt, output and number of the client, for ever."""
        rng = np.random.default_rng(seed)
        shape = cv**-2
        # Nobody starts at time 0: the first gap has begun before.
        last = float(rng.gamma(shape, 1 / (rate * shape)) * (rng.random() - 1))
        while True:
            times = last + np.cumsum(rng.gamma(shape, 1 / (rate * shape), BATCH))
            last = float(times[-1])
            lengths = (self._lengths(mean, rng) for mean in (prompt, output))
            for at, *tokens in zip(times.tolist(), *lengths, strict=True):
                if at >= 0:
                    yield at, *tokens, number

    def _lengths(self, mean: float, rng: np.random.Generator) -> list[int]:
        drawn = mean * rng.lognormal(-(self.sigma**2) / 2, self.sigma, BATCH)
        return np.clip(np.rint(drawn), 1, self.longest).astype(np.int64).tolist()
