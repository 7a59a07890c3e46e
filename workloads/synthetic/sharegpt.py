"""Single turns with ShareGPT's mean lengths."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from workloads.lengths import SHAREGPT_OUTPUT, SHAREGPT_PROMPT
from workloads.request import Session
from workloads.synthetic.base import Online, single_turns


@dataclass(frozen=True, kw_only=True)
class ShareGPT(Online):
    """Single turns with ShareGPT's mean lengths: 161.31 tokens in, 337.99 out.

    The means are those of the PagedAttention paper (SOSP'23, section 6.1), with its limit of
    2048 tokens each; the lognormal shape around them is a model, not data.
    """

    name = "sharegpt"
    prefix_identity = "none: lengths only"

    def sessions(self, rng: np.random.Generator) -> Iterator[Session]:
        """Sessions of one request."""
        return single_turns(rng, SHAREGPT_PROMPT, SHAREGPT_OUTPUT)
