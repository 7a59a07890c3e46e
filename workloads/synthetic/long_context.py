"""Questions about long documents."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

import numpy as np

from workloads.lengths import Lengths, Lognormal
from workloads.plugins import option
from workloads.request import Request, Session
from workloads.synthetic.base import Online
from workloads.synthetic.draws import BATCH


@dataclass(frozen=True, kw_only=True)
class LongContext(Online):
    """Short questions about long documents, each document private or one of a shared set.

    The prompt is the document and then the question. With ``documents`` > 0 the requests choose
    evenly among that many, and the prefix path says so; with 0 every request brings its own.
    """

    name = "long-context"
    prefix_identity = "exact"

    document: Lengths = option(Lognormal(16384.0, 0.7, 98304), "tokens of a document")
    question: Lengths = option(Lognormal(64.0, 0.8, 1024), "tokens of a question")
    output: Lengths = option(Lognormal(256.0, 0.8, 2048), "tokens of an answer")
    documents: int = option(0, "documents shared by all requests; 0: none", low=0, high=1e6)

    def sessions(self, rng: np.random.Generator) -> Iterator[Session]:
        """Sessions of one request. Branches: the shared documents first, then one a request."""
        shared = self.document.draw(rng, self.documents)
        own = count(self.documents)
        while True:
            if self.documents:
                chosen = rng.integers(self.documents, size=BATCH)
                documents = shared[chosen]
            else:
                chosen = np.full(BATCH, -1)
                documents = self.document.draw(rng, BATCH)
            prompts = documents + self.question.draw(rng, BATCH)
            outputs = self.output.draw(rng, BATCH)
            columns = (each.tolist() for each in (chosen, documents, prompts, outputs))
            for branch, document, prompt, output in zip(*columns, strict=True):
                tail = (next(own), prompt + output)
                path = ((branch, document), tail) if self.documents else (tail,)
                yield [Request(0, 0.0, prompt, output, path)]
