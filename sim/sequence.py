"""The engine's state of one sequence: one sample of one request."""

from __future__ import annotations

from enum import Enum, auto

from workloads.request import PrefixPath, Request


class Status(Enum):
    """Where a sequence stands in its life."""

    WAITING = auto()
    RUNNING = auto()
    PREEMPTED = auto()
    SWAPPED = auto()
    FINISHED = auto()
    FAILED = auto()


class Sequence:
    """One sequence of tokens that attends to itself.

    id: small integer, unique among all sequences of a run; policies and memory maps use it.
    path: prefix identity (see `workloads.request`); never None, a private branch where the
        request shares with nobody. Private branches are negative.
    prompt: prompt length in tokens. limit: length at which the sequence is finished.
    tokens: tokens known so far, the prompt and what was sampled (vLLM's ``num_tokens``).
    high: the most tokens that were ever computed; what is computed again below it is recomputed.
    computed: leading tokens whose K/V the cache holds or that the running step computes.
    """

    __slots__ = (
        "arrival",
        "computed",
        "high",
        "hit",
        "id",
        "limit",
        "path",
        "preemptions",
        "priority",
        "prompt",
        "recomputed",
        "request",
        "sample",
        "status",
        "tokens",
    )

    def __init__(self, id: int, request: Request, sample: int = 0) -> None:
        self.id = id
        self.request = request
        self.sample = sample
        self.prompt = request.prompt
        self.limit = request.prompt + request.output
        self.path: PrefixPath = request.path or ((-1 - id, self.limit),)
        self.priority = request.priority
        self.arrival = request.arrival
        self.tokens = request.prompt
        self.computed = 0
        self.high = 0
        self.hit = 0
        self.preemptions = 0
        self.recomputed = 0
        self.status = Status.WAITING

    @property
    def is_decoding(self) -> bool:
        """True when the next step needs just the K/V of the last sampled token."""
        return self.tokens - self.computed == 1 and self.tokens > self.prompt

    def __repr__(self) -> str:
        return f"Sequence({self.id}, {self.computed}/{self.tokens} of {self.limit})"
