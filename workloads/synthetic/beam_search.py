"""Beam search over every output."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from workloads.lengths import ALPACA_OUTPUT, ALPACA_PROMPT, Lengths
from workloads.plugins import option
from workloads.request import Session
from workloads.synthetic.base import Online, single_turns


@dataclass(frozen=True, kw_only=True)
class BeamSearch(Online):
    """Beam search: each output is searched with ``width`` beams, Alpaca's lengths by default.

    The experiment of the PagedAttention paper (SOSP'23, section 6.3, with widths of 2, 4 and 6).
    """

    name = "beam-search"
    prefix_identity = "none: lengths only"

    width: int = option(4, "beams", low=1, high=1000)
    prompt: Lengths = option(ALPACA_PROMPT, "tokens of a prompt")
    output: Lengths = option(ALPACA_OUTPUT, "tokens of the output")

    def sessions(self, rng: np.random.Generator) -> Iterator[Session]:
        """Sessions of one request."""
        for session in single_turns(rng, self.prompt, self.output):
            session[0].beam_width = self.width
            yield session
