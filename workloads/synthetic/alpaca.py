"""Single turns with Alpaca's mean lengths."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from workloads.lengths import ALPACA_OUTPUT, ALPACA_PROMPT
from workloads.request import Session
from workloads.synthetic.base import Online, single_turns


@dataclass(frozen=True, kw_only=True)
class Alpaca(Online):
    """Single turns with Alpaca's mean lengths: 19.31 tokens in, 58.45 out.

    The means are those of the PagedAttention paper (SOSP'23, section 6.1), with its limit of
    2048 tokens each; the lognormal shape around them is a model, not data.
    """

    name = "alpaca"
    prefix_identity = "none: lengths only"

    def sessions(self, rng: np.random.Generator) -> Iterator[Session]:
        """Sessions of one request."""
        return single_turns(rng, ALPACA_PROMPT, ALPACA_OUTPUT)
