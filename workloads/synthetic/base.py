"""What all generators have in common: a seed, a number of requests, a rule for when they start."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import repeat

import numpy as np

from workloads.arrivals import Arrivals, Poisson
from workloads.lengths import Lengths
from workloads.plugins import check_options, option
from workloads.request import Request, Session, Traffic, Workload
from workloads.sessions import numbered
from workloads.synthetic.draws import BATCH


@dataclass(frozen=True, kw_only=True)
class Synthetic(Workload):
    """A generator: a seed, and at most so many requests."""

    requests: int = option(1000, "how many requests", low=1, high=1e9)
    seed: int = option(0, "seed of all that is drawn", low=0, high=2**63 - 1)

    def __post_init__(self) -> None:
        check_options(self)


@dataclass(frozen=True, kw_only=True)
class Sessions(Synthetic):
    """A generator whose subclasses make sessions and say when they start."""

    @abstractmethod
    def sessions(self, rng: np.random.Generator) -> Iterator[Session]:
        """Endless sessions, a function of ``rng`` alone; ids are set later."""

    @abstractmethod
    def starts(self) -> Arrivals:
        """When they start."""

    def traffic(self) -> Traffic:
        """Fresh traffic. Contents and times come from separate streams of the seed."""
        content, timing = map(np.random.default_rng, np.random.SeedSequence(self.seed).spawn(2))
        sessions = numbered(self.sessions(content), self.requests)
        return self.starts().traffic(sessions, timing)


@dataclass(frozen=True, kw_only=True)
class Online(Sessions):
    """A generator whose sessions arrive over time."""

    rate: float | None = option(
        None, "mean requests a second; none: as arrivals say", low=1e-9, high=1e9
    )
    arrivals: Arrivals = option(Poisson(), "when sessions start")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.starts()

    def requests_per_session(self) -> float:
        """The mean number of requests that a start brings."""
        return 1.0

    def starts(self) -> Arrivals:
        """The arrival process, at the rate asked for."""
        if self.rate is None:
            return self.arrivals
        return self.arrivals.at_rate(self.rate / self.requests_per_session())


def single_turns(rng: np.random.Generator, prompt: Lengths, output: Lengths) -> Iterator[Session]:
    """Endless sessions of one request each that share nothing with each other."""
    while True:
        prompts, outputs = prompt.draw(rng, BATCH), output.draw(rng, BATCH)
        for request in map(Request, repeat(0), repeat(0.0), prompts.tolist(), outputs.tolist()):
            yield [request]
