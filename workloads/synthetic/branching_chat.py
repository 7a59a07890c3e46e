"""Conversations whose users ask again: for another answer, or with another message."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import count, islice

import numpy as np

from workloads.plugins import option
from workloads.request import PrefixPath, Request, Session
from workloads.synthetic.chat import Chat

SAMPLED = 4096
"""Conversations from which the mean number of requests is estimated."""


@dataclass(frozen=True, kw_only=True)
class BranchingChat(Chat):
    """`chat` with second tries, from which the conversation then goes on.

    The answer of a turn is generated again (same prompt), or its message is changed and sent again
    (the prompt up to the message before it stays). How often is this project's assumption, not a
    measurement. Lengths and think times of second tries are drawn like those of turns.

    Prefix path: one branch for the system prompt, one for each try; a second answer leaves the
    branch of the first at the end of its prompt.
    """

    name = "chat-branching"

    again: float = option(0.15, "share of turns whose answer is generated again", low=0, high=1)
    edited: float = option(0.15, "share of the other turns whose message is changed", low=0, high=1)

    def sessions(self, rng: np.random.Generator) -> Iterator[Session]:
        """Conversations, numbered from 0."""
        branches = count(1)
        for turns in super().sessions(rng):
            yield self._tried_again(turns, branches, rng)

    def requests_per_session(self) -> float:
        """Mean requests of a conversation, from a sample of 4,096."""
        return self._mean_requests

    @cached_property
    def _mean_requests(self) -> float:
        sessions = islice(self.sessions(np.random.default_rng(0)), SAMPLED)
        return sum(len(session) for session in sessions) / SAMPLED

    def _tried_again(
        self, turns: Session, branches: Iterator[int], rng: np.random.Generator
    ) -> Session:
        """The turns and the second tries between them, up to the longest context."""
        session: Session = []
        trunk: PrefixPath = ((0, self.system),) if self.system else ()
        answered = self.system
        before = self.system
        for turn in turns:
            user, before = turn.prompt - before, turn.prompt + turn.output
            first = _request(trunk, answered + user, turn.output, next(branches))
            tries = [(turn.arrival, first)]
            drawn = rng.random(2)
            if drawn[0] < self.again:
                assert first.path is not None
                asked = (*trunk, (first.path[-1][0], first.prompt))
                output = int(self.output.draw(rng, 1)[0])
                tries.append(
                    (self._pause(rng), _request(asked, first.prompt, output, next(branches)))
                )
            elif drawn[1] < self.edited:
                prompt = answered + int(self.user.draw(rng, 1)[0])
                output = int(self.output.draw(rng, 1)[0])
                tries.append((self._pause(rng), _request(trunk, prompt, output, next(branches))))
            for pause, request in tries:
                if request.prompt + request.output > self.max_context:
                    return session
                request.arrival = pause
                request.conversation, request.turn = turn.conversation, len(session)
                session.append(request)
                assert request.path is not None
                trunk_after, answered_after = request.path, request.prompt + request.output
            trunk, answered = trunk_after, answered_after
        return session

    def _pause(self, rng: np.random.Generator) -> float:
        return float(rng.exponential(self.think))


def _request(shared: PrefixPath, prompt: int, output: int, branch: int) -> Request:
    """A request that goes on from ``shared`` on a branch of its own."""
    return Request(0, 0.0, prompt, output, (*shared, (branch, prompt + output)))
