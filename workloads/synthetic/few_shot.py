"""Examples in front of every input: one task, or several."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

import numpy as np

from workloads.lengths import Constant, Lengths, Lognormal
from workloads.plugins import option
from workloads.request import OUTPUTS, Request, Session
from workloads.synthetic.base import Online
from workloads.synthetic.draws import popular, tokens


@dataclass(frozen=True, kw_only=True)
class FewShot(Online):
    """Few-shot prompts: a shared prefix of instruction and examples, then the user's input.

    The default prefix is the five-shot translation prompt of the PagedAttention paper (SOSP'23,
    section 6.4): 341 tokens; its one-shot prompt has 80. Lengths of inputs and outputs (about a
    sentence each) and the popularity of tasks are this project's assumptions.

    Prefix path: a branch for each task, one for the input and its output.
    """

    name = "few-shot"
    prefix_identity = "exact"

    prefix: Lengths = option(Constant(341), "tokens of instruction and examples")
    tasks: int = option(1, "different prefixes", low=1, high=1e6)
    zipf: float = option(0.0, "exponent of the popularity of tasks; 0: even", low=0, high=10)
    question: Lengths = option(Lognormal(35.0, 0.6, 512), "tokens of the user's input")
    output: Lengths = option(Lognormal(35.0, 0.6, 512), "tokens of an output")

    def sessions(self, rng: np.random.Generator) -> Iterator[Session]:
        """Sessions of one request."""
        prefixes = self.prefix.draw(rng, self.tasks).tolist()
        chosen = popular(self.tasks, self.zipf, rng)
        questions, outputs = tokens(self.question, rng), tokens(self.output, rng)
        for own in count(OUTPUTS):
            task = next(chosen)
            prompt, output = prefixes[task] + next(questions), next(outputs)
            path = ((task, prefixes[task]), (own, prompt + output))
            yield [Request(0, 0.0, prompt, output, path)]
