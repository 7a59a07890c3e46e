"""Completions while somebody writes code."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

import numpy as np

from workloads.lengths import MAX_TOKENS, Lengths, Lognormal
from workloads.plugins import option
from workloads.request import OUTPUTS, Request, Session
from workloads.synthetic.base import Online
from workloads.synthetic.draws import counts, seconds, tokens


@dataclass(frozen=True, kw_only=True)
class Code(Online):
    """Code completion: long prompts, short outputs, several completions in one file.

    A session is a file that is worked on. Each completion's prompt is the instructions, the front
    of the file as it was when the session began, and then what has changed since; the file stays
    as long as it is. The next completion comes a pause after the last one. That prompts are long
    and outputs are a line or two is what Azure's traces of coding show (Splitwise, ISCA'24,
    figure 3); the numbers are this project's assumptions.

    Prefix path: a branch for the instructions, one for each file, one for each completion.
    """

    name = "code"
    prefix_identity = "exact"

    system: int = option(64, "tokens of the instructions", low=0, high=MAX_TOKENS)
    file: Lengths = option(Lognormal(2000.0, 0.9, 7168), "tokens of the file")
    kept: float = option(0.8, "share of the file that no edit touches, its front", low=0, high=1)
    output: Lengths = option(Lognormal(28.0, 1.0, 512), "tokens of a completion")
    completions: float = option(6.0, "mean completions in a file", low=1, high=10_000)
    pause: float = option(8.0, "mean pause before the next, seconds (exponential)", low=0, high=1e6)

    def sessions(self, rng: np.random.Generator) -> Iterator[Session]:
        """One session a file."""
        files, outputs = tokens(self.file, rng), tokens(self.output, rng)
        pauses, numbers = seconds(self.pause, rng), counts(self.completions, rng)
        own = count(OUTPUTS)
        for conversation in count():
            prompt = self.system + next(files)
            front = self.system + int(self.kept * (prompt - self.system))
            shared = [(0, self.system)] if self.system else []
            if front > self.system:
                shared.append((conversation + 1, front))
            session = []
            for turn in range(next(numbers)):
                output = next(outputs)
                path = (*shared, (next(own), prompt + output))
                session.append(Request(0, next(pauses), prompt, output, path, conversation, turn))
            yield session

    def requests_per_session(self) -> float:
        """Mean completions in a file."""
        return self.completions
