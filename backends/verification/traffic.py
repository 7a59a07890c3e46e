"""Small workloads that make policies do everything they can do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from workloads.request import PrefixPath, Request, Traffic, Workload


@dataclass(frozen=True)
class Mixed(Workload):
    """Requests of random lengths, some of which share prefixes, branch, or go on as conversations.

    prompt, output: longest ones in tokens. shared: tokens of a prefix that every other request
    begins with (0: nobody shares). samples, beams: of every fourth request.
    """

    name = "mixed"

    requests: int = 16
    prompt: int = 120
    output: int = 32
    shared: int = 0
    samples: int = 1
    beams: int = 1
    seed: int = 0

    def traffic(self) -> Traffic:
        """The same requests at every call."""
        return _Listed(self._requests())

    def _requests(self) -> list[Request]:
        rng = np.random.default_rng(self.seed)
        prompts = rng.integers(1, self.prompt, self.requests, endpoint=True).tolist()
        outputs = rng.integers(1, self.output, self.requests, endpoint=True).tolist()
        made: list[Request] = []
        for i, (prompt, output) in enumerate(zip(prompts, outputs, strict=True)):
            path: PrefixPath | None = None
            if self.shared and i % 2:
                # Every sixth request repeats the whole of an earlier one's text and goes on.
                earlier = made[i - 4] if i % 6 == 5 else None
                if earlier is not None and earlier.path is not None:
                    before = earlier.path
                else:
                    before = ((0, self.shared),)
                prompt += before[-1][1]
                path = (*before, (i + 1, prompt + output))
            request = Request(i, 0.0, prompt, output, path=path)
            if i % 4 == 3:
                request = replace(request, samples=self.samples, beam_width=self.beams)
            made.append(request)
        return made


class _Listed(Traffic):
    def __init__(self, requests: list[Request]) -> None:
        self._requests = requests

    def arrivals(self) -> Iterator[Request]:
        return (replace(request) for request in self._requests)
