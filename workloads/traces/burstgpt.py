"""BurstGPT (HPMLL/BurstGPT, KDD'25): months of requests to ChatGPT and GPT-4 on Azure.

Columns as the repository's README lists them: ``Timestamp`` (seconds since the first day began),
``Model``, ``Request tokens``, ``Response tokens``, ``Total tokens``, ``Log Type``; since release
2.0 also ``Session ID`` (of conversations) and ``Elapsed time``. Failed requests have 0 response
tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from workloads.plugins import option
from workloads.request import Request
from workloads.traces.base import Empty, LineTrace
from workloads.traces.columns import table
from workloads.traces.head import Head
from workloads.traces.lines import Lines

_COLUMNS = ("Timestamp", "Model", "Request tokens", "Response tokens", "Log Type")


@dataclass(frozen=True)
class BurstGPT(LineTrace):
    """BurstGPT: CSV of Timestamp, Model, Request tokens, Response tokens, Log Type.

    Arrivals count from the first request. Failed requests, which have no response tokens, are
    left out. Rows of one ``Session ID`` are turns of one conversation, sent when they were sent;
    whether a turn's request tokens hold the turns before it is not published, so nothing is
    taken to be shared.
    """

    name = "burstgpt"
    prefix_identity = "none: the trace has lengths only"

    empty: Empty = option("skip", "requests without a token in or out: refuse, skip, one (token)")
    model: str = option("", "model to keep, as ChatGPT or GPT-4; empty: all")

    @classmethod
    def sniff(cls, head: Head) -> bool:
        """The columns of all releases."""
        return head.columns >= set(_COLUMNS)

    def rows(self, lines: Lines) -> Iterator[Request]:
        """One request a row, ids counting the rows that are kept."""
        first: float | None = None
        turns: dict[object, list[int]] = {}
        number = 0
        for row in table(lines, _COLUMNS):
            at = lines.seconds(row, "Timestamp")
            if self.model and row["Model"] != self.model:
                continue
            if first is None:
                first = at
            prompt = lines.whole(row, "Request tokens", 0)
            output = lines.whole(row, "Response tokens", 0)
            request = Request(number, at - first, prompt, output)
            if row.get("Session ID", "") != "":
                known = turns.setdefault(row["Session ID"], [len(turns), 0])
                request.conversation, request.turn = known
                known[1] += 1
            number += 1
            yield request
