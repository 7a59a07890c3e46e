"""All turns of a conversation to the same replica."""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass
from typing import Any, Literal

from sim.cluster.router import Load, Router, least_loaded
from workloads.request import Request


class SessionSticky(Router):
    """The first turn goes to the least loaded replica, the others follow it.

    So does a request that belongs to no conversation.
    """

    name = "session-sticky"

    @dataclass(frozen=True)
    class Options:
        """by: what makes a replica the least loaded."""

        by: Literal["requests", "tokens"] = "requests"

    options: Options

    def __init__(self, replicas: int, seed: int, options: Any = None) -> None:
        super().__init__(replicas, seed, options)
        self._homes: dict[int, int] = {}

    def choose(self, request: Request, loads: SequenceOf[Load]) -> int:
        """Where the conversation is at home."""
        home = None if request.conversation is None else self._homes.get(request.conversation)
        if home is None:
            home = least_loaded(range(self.replicas), loads, self.options.by)
            if request.conversation is not None:
                self._homes[request.conversation] = home
        return home
