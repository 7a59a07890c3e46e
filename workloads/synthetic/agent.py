"""Agents: a context that grows with every tool call, and helpers that work side by side."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import count, islice

import numpy as np

from workloads.arrivals import Arrivals, Poisson
from workloads.errors import InputError
from workloads.lengths import MAX_TOKENS, Lengths, Lognormal
from workloads.plugins import option
from workloads.request import PrefixPath, Request, Session
from workloads.synthetic.base import Online
from workloads.synthetic.draws import counts, seconds, shares, tokens

_SYSTEM_BRANCH = 0
_SAMPLE = 512


@dataclass(frozen=True, kw_only=True)
class Agent(Online):
    """Agents that call tools: growing contexts, pauses, helpers sent off and waited for.

    A session is a task. Each request's prompt is the whole context: system prompt and tools, the
    task, and for every call so far the answer and the tool's result. The next call comes when the
    tool has answered. With probability ``fork`` a call sends off ``helpers`` that begin with the
    context as it is and a task of their own, work side by side, and give their last answers back;
    the agent goes on when the last of them has ended (fork and join). Helpers have no helpers. A
    line of calls ends early where the next one would not fit ``max_context``.

    Sources: 15.3 calls a task is the mean of LLMServingSim's SWE-bench sessions
    (``workloads/README.md`` there); tools and system prompt of about 8 to 12 and 2 to 3 thousand
    tokens are those of the agents in WEKA's traces (kv-cache-tester,
    ``docs/trace_replay_tester.md``). All else is this project's assumption.

    Prefix path: a branch for the system prompt, one for each agent, to which its calls append;
    helpers leave their agent's branch where they were sent off.
    """

    name = "agent"
    prefix_identity = "exact"

    arrivals: Arrivals = option(Poisson(0.1), "when tasks start")
    system: int = option(12_000, "tokens of system prompt and tools", low=0, high=MAX_TOKENS)
    task: Lengths = option(Lognormal(600.0, 1.0, 4096), "tokens of a task")
    result: Lengths = option(Lognormal(700.0, 1.2, 8192), "tokens of a tool's result")
    output: Lengths = option(Lognormal(150.0, 0.9, 2048), "tokens of an answer")
    calls: float = option(15.3, "mean calls of an agent", low=1, high=10_000)
    tool: float = option(3.0, "mean time of a tool, seconds (exponential)", low=0, high=1e6)
    fork: float = option(0.05, "share of calls that send off helpers", low=0, high=1)
    helpers: int = option(3, "helpers sent off together", low=1, high=100)
    helper_calls: float = option(4.0, "mean calls of a helper", low=1, high=10_000)
    max_context: int = option(65_536, "tokens at which calls end", low=2, high=MAX_TOKENS)

    def __post_init__(self) -> None:
        longest = self.system + self.task.longest + self.output.longest
        if self.max_context < longest:
            raise InputError(
                f"agent: max_context: expected at least {longest}, the longest first call "
                f"(system {self.system} + task {self.task.longest} + output "
                f"{self.output.longest}), got {self.max_context!r}"
            )
        super().__post_init__()

    def sessions(self, rng: np.random.Generator) -> Iterator[Session]:
        """One session a task."""
        draw = _Draws(self, rng)
        while True:
            yield self._session(draw)

    def requests_per_session(self) -> float:
        """Mean calls of a task, helpers' included, from a sample of 512."""
        return self._mean_calls

    @cached_property
    def _mean_calls(self) -> float:
        # Helpers and the context limit leave no closed form.
        sample = islice(self.sessions(np.random.default_rng(0)), _SAMPLE)
        return sum(map(len, sample)) / _SAMPLE

    def _session(self, draw: _Draws) -> Session:
        session: Session = []
        system = ((_SYSTEM_BRANCH, self.system),) if self.system else ()
        line = _Line(self, draw, session, system, self.system + next(draw.task))
        for call in range(next(draw.calls)):
            if not line.call(call):
                break
            if next(draw.share) < self.fork:
                line.send_off_helpers()
        return session


class _Draws:
    """The streams that a generator draws from, in an order that only the seed decides."""

    def __init__(self, agent: Agent, rng: np.random.Generator) -> None:
        self.task = tokens(agent.task, rng)
        self.result = tokens(agent.result, rng)
        self.output = tokens(agent.output, rng)
        self.tool = seconds(agent.tool, rng)
        self.share = shares(rng)
        self.calls = counts(agent.calls, rng)
        self.helper_calls = counts(agent.helper_calls, rng)
        self.branch = count(_SYSTEM_BRANCH + 1)


class _Line:
    """The calls of one agent or helper, one after the other.

    prefix: path of what it begins with. prompt: tokens of its next call. waits: places in the
    session of the requests that the next call waits for.
    """

    def __init__(
        self,
        agent: Agent,
        draw: _Draws,
        session: Session,
        prefix: PrefixPath,
        prompt: int,
        waits: tuple[int, ...] = (),
    ) -> None:
        self.prompt = prompt
        self.waits = waits
        self._agent = agent
        self._draw = draw
        self._session = session
        self._prefix = prefix
        self._branch = next(draw.branch)
        self._answer = 0

    def call(self, turn: int) -> bool:
        """Add a call to the session unless it does not fit; whether it did."""
        output = next(self._draw.output)
        end = self.prompt + output
        if end > self._agent.max_context:
            return False
        path = (*self._prefix, (self._branch, end))
        pause = next(self._draw.tool) if turn else 0.0
        self._session.append(
            Request(0, pause, self.prompt, output, path, self._branch, turn, after=self.waits)
        )
        self.waits = (len(self._session) - 1,)
        self.prompt = end + next(self._draw.result)
        self._answer = output
        return True

    def send_off_helpers(self) -> None:
        """Helpers begin with all up to the last answer; their answers take the tool's place."""
        last = self._session[-1]
        context = last.prompt + last.output
        prefix = (*self._prefix, (self._branch, context))
        joined: list[int] = []
        answers = 0
        for _ in range(self._agent.helpers):
            begin = context + next(self._draw.task)
            helper = _Line(self._agent, self._draw, self._session, prefix, begin, self.waits)
            for call in range(next(self._draw.helper_calls)):
                if not helper.call(call):
                    break
            if helper.waits != self.waits:
                joined += helper.waits
                answers += helper._answer
        if joined:
            self.waits = tuple(joined)
            self.prompt = context + answers
