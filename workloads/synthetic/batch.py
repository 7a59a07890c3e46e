"""Offline work: everything is there at time 0."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from workloads.arrivals import Arrivals, AtOnce
from workloads.lengths import SHAREGPT_OUTPUT, SHAREGPT_PROMPT, Lengths
from workloads.plugins import option
from workloads.request import Session
from workloads.synthetic.base import Sessions, single_turns


@dataclass(frozen=True, kw_only=True)
class Batch(Sessions):
    """Offline work: all requests at time 0, so throughput is all that counts."""

    name = "batch"
    prefix_identity = "none: lengths only"

    prompt: Lengths = option(SHAREGPT_PROMPT, "tokens of a prompt")
    output: Lengths = option(SHAREGPT_OUTPUT, "tokens of an output")

    def sessions(self, rng: np.random.Generator) -> Iterator[Session]:
        """Sessions of one request."""
        return single_turns(rng, self.prompt, self.output)

    def starts(self) -> Arrivals:
        """All at once."""
        return AtOnce()
