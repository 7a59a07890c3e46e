"""Questions answered from documents, some of them asked about again and again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

import numpy as np

from workloads.errors import InputError
from workloads.lengths import MAX_TOKENS, Lengths, Lognormal
from workloads.plugins import option
from workloads.request import OUTPUTS, Request, Session
from workloads.synthetic.base import Online
from workloads.synthetic.draws import popular, tokens


@dataclass(frozen=True, kw_only=True)
class Rag(Online):
    """Retrieval: instructions, long shared documents with Zipf popularity, a short question.

    Each request brings ``retrieved`` documents, drawn independently by popularity; a document
    drawn twice stands there twice. Two requests share the instructions and then all documents up
    to the first one that differs, since what is behind it has another prefix. That few documents
    serve most requests is what RAGCache found (arXiv 2404.12457, section 3.2); the exponent and
    all lengths are this project's assumptions.

    Prefix path: a branch for the instructions, one for every sequence of documents, one for the
    question and its answer.
    """

    name = "rag"
    prefix_identity = "exact"

    system: int = option(128, "tokens of the instructions", low=0, high=MAX_TOKENS)
    documents: int = option(1000, "documents there are", low=1, high=1e6)
    retrieved: int = option(1, "documents a request brings", low=1, high=8)
    zipf: float = option(1.0, "exponent of the popularity of documents; 0: even", low=0, high=10)
    document: Lengths = option(Lognormal(3000.0, 0.6, 16384), "tokens of a document")
    question: Lengths = option(Lognormal(40.0, 0.8, 512), "tokens of a question")
    output: Lengths = option(Lognormal(150.0, 0.8, 1024), "tokens of an answer")

    def __post_init__(self) -> None:
        super().__post_init__()
        # Sequences of documents are numbered like digits.
        if (self.documents + 1) ** self.retrieved >= OUTPUTS:
            raise InputError(
                f"rag: documents, retrieved: expected fewer than 2**62 sequences of documents, "
                f"got ({self.documents} + 1) ** {self.retrieved}"
            )

    def sessions(self, rng: np.random.Generator) -> Iterator[Session]:
        """Sessions of one request."""
        lengths = self.document.draw(rng, self.documents).tolist()
        chosen = popular(self.documents, self.zipf, rng)
        questions, outputs = tokens(self.question, rng), tokens(self.output, rng)
        for own in count(OUTPUTS):
            path, branch, end = [], 0, self.system
            if self.system:
                path.append((branch, end))
            for _ in range(self.retrieved):
                document = next(chosen)
                branch = branch * (self.documents + 1) + document + 1
                end += lengths[document]
                path.append((branch, end))
            prompt, output = end + next(questions), next(outputs)
            yield [Request(0, 0.0, prompt, output, (*path, (own, prompt + output)))]
