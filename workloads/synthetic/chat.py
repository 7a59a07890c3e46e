"""Multi-turn conversations behind one system prompt."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import count, islice, repeat
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from workloads.errors import InputError
from workloads.lengths import MAX_TOKENS, Lengths, Lognormal, Tokens
from workloads.plugins import check_options, option
from workloads.request import Request, Session
from workloads.synthetic.base import Online
from workloads.synthetic.draws import BATCH

_SYSTEM_BRANCH = 0


class _Turns(NamedTuple):
    """Turns as columns, conversation by conversation; ``conversation`` counts from 0."""

    conversation: Tokens
    turn: Tokens
    pauses: NDArray[np.float64]
    prompts: Tokens
    outputs: Tokens


@dataclass(frozen=True, kw_only=True)
class Chat(Online):
    """Multi-turn conversations with think time and a shared system prompt.

    A turn's prompt is the whole history, system prompt first, and a new user message. The next
    turn comes a think time after the last answer ended. Conversations have a geometric number of
    turns and end early where the next one would not fit the context. The default lengths, turns
    and think times are this project's assumptions, not measurements.

    Prefix path: one branch for the system prompt, then one for each conversation, to which every
    turn appends. So the prompt of a turn covers prompt and output of the turn before.
    """

    name = "chat"
    prefix_identity = "exact"

    system: int = option(256, "tokens of the shared system prompt", low=0, high=MAX_TOKENS)
    user: Lengths = option(Lognormal(70.0, 1.2, 1024), "tokens of a user message")
    output: Lengths = option(Lognormal(215.0, 1.0, 1024), "tokens of an answer")
    turns: float = option(4.0, "mean turns of a conversation", low=1, high=10_000)
    think: float = option(10.0, "mean think time, seconds (exponential)", low=0, high=1e6)
    max_context: int = option(8192, "tokens at which a conversation ends", low=2, high=MAX_TOKENS)

    def __post_init__(self) -> None:
        check_options(self)
        longest = self.system + self.user.longest + self.output.longest
        if self.max_context < longest:
            raise InputError(
                f"chat: max_context: expected at least {longest}, the longest first turn "
                f"(system {self.system} + user {self.user.longest} + output "
                f"{self.output.longest}), got {self.max_context!r}"
            )
        super().__post_init__()

    def sessions(self, rng: np.random.Generator) -> Iterator[Session]:
        """Conversations, numbered from 0."""
        for first in count(0, BATCH):
            drawn = self._drawn(rng)
            numbers = (drawn.conversation + first).tolist()
            contexts = drawn.prompts + drawn.outputs
            requests = map(
                Request,
                repeat(0),
                drawn.pauses.tolist(),
                drawn.prompts.tolist(),
                drawn.outputs.tolist(),
                self._paths(numbers, contexts.tolist()),
                numbers,
                drawn.turn.tolist(),
            )
            for turns in np.bincount(drawn.conversation, minlength=BATCH).tolist():
                yield list(islice(requests, turns))

    def requests_per_session(self) -> float:
        """Mean turns of a conversation, from a sample of 16,384."""
        return self._mean_turns

    @cached_property
    def _mean_turns(self) -> float:
        # The context limit cuts long conversations, for which there is no closed form.
        rng = np.random.default_rng(0)
        return sum(self._drawn(rng).turn.size for _ in range(16)) / (16 * BATCH)

    def _drawn(self, rng: np.random.Generator) -> _Turns:
        """A batch of conversations without the turns that do not fit the context."""
        turns = rng.geometric(1 / self.turns, BATCH)
        begins = np.cumsum(turns) - turns
        size = int(turns.sum())
        users, outputs = self.user.draw(rng, size), self.output.draw(rng, size)
        pauses = rng.exponential(self.think, size)

        # Running context within each conversation: a sum over the batch, less what came before.
        contexts = np.cumsum(users + outputs)
        before = contexts[begins] - (users + outputs)[begins]
        contexts += self.system - np.repeat(before, turns)
        conversation = np.repeat(np.arange(BATCH, dtype=np.int64), turns)
        turn = np.arange(size, dtype=np.int64) - np.repeat(begins, turns)
        # Contexts only grow, so what fits is the front of each conversation, its first turn too.
        fits = contexts <= self.max_context
        return _Turns(
            conversation[fits], turn[fits], pauses[fits], (contexts - outputs)[fits], outputs[fits]
        )

    def _paths(self, numbers: list[int], ends: list[int]) -> Iterator[tuple[tuple[int, int], ...]]:
        own = zip((number + 1 for number in numbers), ends, strict=True)
        return zip(repeat((_SYSTEM_BRANCH, self.system)), own) if self.system else zip(own)
