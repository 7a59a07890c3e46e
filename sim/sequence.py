"""The engine's state of one sequence: one sample of one request."""

from __future__ import annotations

from enum import Enum, auto

from workloads.request import PrefixPath, Request


class Status(Enum):
    """Where a sequence stands in its life.

    HANDED_OVER: it waits, and another replica has computed its prompt and its first token.
    """

    WAITING = auto()
    RUNNING = auto()
    PREEMPTED = auto()
    SWAPPED = auto()
    HANDED_OVER = auto()
    FINISHED = auto()
    FAILED = auto()


class StepClock:
    """Steps that a batch of decoding sequences has taken, each of its members one token a step.

    scheduled: steps begun. sampled: steps whose tokens are known; at most one behind.
    """

    __slots__ = ("sampled", "scheduled")

    def __init__(self) -> None:
        self.scheduled = 0
        self.sampled = 0


_STILL = StepClock()


class Sequence:
    """One sequence of tokens that attends to itself.

    id: small integer, unique among all sequences of a run; policies and memory maps use it.
    path: prefix identity (see `workloads.request`); never None, a private branch where the
        request shares with nobody. Private branches are negative.
    prompt: prompt length in tokens. limit: length at which the sequence is finished.
    tokens: tokens known so far, the prompt and what was sampled (vLLM's ``num_tokens``).
    high: the most tokens that were ever computed; what is computed again below it is recomputed.
    computed: leading tokens whose K/V the cache holds or that the running step computes.
    hit: tokens found in the prefix cache when the sequence was first admitted.
    rank: rises in the order of admission, and so along the scheduler's running sequences.
    min_tokens: output tokens before which the longest length allowed does not end the sequence.
    reads_cache: False for a sequence that must not use the prefix cache (it still fills it).
    drafts: tokens that were drafted for it and wait to be verified.

    While a sequence decodes in a batch, ``tokens`` and ``computed`` move with the batch's clock
    (`follow`), so that a step of the batch costs nothing per sequence.
    """

    __slots__ = (
        "_clock",
        "_computed",
        "_tokens",
        "arrival",
        "drafts",
        "high",
        "hit",
        "id",
        "limit",
        "min_tokens",
        "path",
        "preemptions",
        "priority",
        "prompt",
        "rank",
        "reads_cache",
        "recomputed",
        "request",
        "sample",
        "status",
    )

    def __init__(self, id: int, request: Request, sample: int = 0) -> None:
        self.id = id
        self.request = request
        self.sample = sample
        self.prompt = request.prompt
        self.limit = request.prompt + request.output
        self.path = _path_of(request, sample, private=-1 - id)
        self.priority = request.priority
        self.arrival = request.arrival
        self._clock = _STILL
        self._tokens = request.prompt
        self._computed = 0
        self.high = 0
        self.hit = 0
        self.preemptions = 0
        self.recomputed = 0
        self.rank = 0
        self.min_tokens = 0
        self.drafts = 0
        self.reads_cache = True
        self.status = Status.WAITING

    @property
    def tokens(self) -> int:
        """Tokens known so far."""
        return self._tokens + self._clock.sampled

    @tokens.setter
    def tokens(self, value: int) -> None:
        self._tokens = value - self._clock.sampled

    @property
    def computed(self) -> int:
        """Leading tokens whose K/V is there, or is being computed."""
        return self._computed + self._clock.scheduled

    @computed.setter
    def computed(self, value: int) -> None:
        self._computed = value - self._clock.scheduled

    def follow(self, clock: StepClock | None) -> None:
        """Let the lengths move with ``clock`` from now on, or with none."""
        before, after = self._clock, _STILL if clock is None else clock
        self._clock = after
        self._tokens += before.sampled - after.sampled
        self._computed += before.scheduled - after.scheduled

    def follows(self, clock: StepClock) -> bool:
        """Whether the lengths move with ``clock``."""
        return self._clock is clock

    @property
    def is_decoding(self) -> bool:
        """True when the next step needs just the K/V of the last sampled token."""
        return self.tokens - self.computed == 1 and self.tokens > self.prompt

    def __repr__(self) -> str:
        return f"Sequence({self.id}, {self.computed}/{self.tokens} of {self.limit})"


def _path_of(request: Request, sample: int, private: int) -> PrefixPath:
    """The request's path; further samples share its prompt but not what the first generates."""
    limit = request.prompt + request.output
    if request.path is None:
        return ((private, limit),)
    if sample == 0:
        return request.path
    shared = tuple((branch, end) for branch, end in request.path if end < request.prompt)
    branch = next(branch for branch, end in request.path if end >= request.prompt)
    return (*shared, (branch, request.prompt), (private, limit))
