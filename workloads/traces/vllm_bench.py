"""Result files of ``vllm bench serve --save-result --save-detailed`` (vllm/benchmarks/serve.py).

Lengths are in ``input_lens`` and ``output_lens`` (tokens really generated), times of sending, in
newer releases, in ``start_times`` (seconds on a clock of the client's own).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from workloads.errors import InputError
from workloads.plugins import option
from workloads.request import Request, Session
from workloads.traces.base import Empty, by_start
from workloads.traces.head import Head
from workloads.traces.items import members_of
from workloads.traces.lines import MAX_SECONDS, Source
from workloads.traces.undated import Undated

_LENGTHS = ("input_lens", "output_lens")
_STARTS = "start_times"


@dataclass(frozen=True)
class VllmBench(Undated[Source]):
    """Results of ``vllm bench serve`` with --save-detailed: JSON with input_lens, output_lens.

    Requests are sent when they were, or, where the file does not say, at drawn times. Failed
    requests, which have no output, are left out. The lists of numbers are held at once.
    """

    name = "vllm-bench"
    prefix_identity = "none: the file has lengths only"

    empty: Empty = option("skip", "requests without a token in or out: refuse, skip, one (token)")

    @classmethod
    def sniff(cls, head: Head) -> bool:
        """Counters that every result begins with."""
        wanted = {"num_prompts", "completed", "total_input_tokens", "request_throughput"}
        return not head.is_array and len(wanted & head.keys) >= 3

    def source(self) -> Source:
        """The file."""
        return Source(self.path)

    @cached_property
    def is_dated(self) -> bool:
        """Whether the times of sending are there."""
        return _STARTS in self._members

    @cached_property
    def _members(self) -> dict[str, Any]:
        members = members_of(self.path, frozenset({*_LENGTHS, _STARTS}))
        for name in _LENGTHS:
            if name not in members:
                raise InputError(
                    f"{self.path}: expected {name}, which vllm bench serve writes with "
                    "--save-detailed"
                )
        counts = set()
        for name, values in members.items():
            limit = MAX_SECONDS if name == _STARTS else 1e9
            if type(values) is not list or not all(
                isinstance(each, int | float) and 0 <= each <= limit for each in values
            ):
                raise InputError(f"{self.path}: {name}: expected a list of numbers from 0")
            counts.add(len(values))
        if len(counts) > 1:
            raise InputError(f"{self.path}: expected lists of one length, got {sorted(counts)}")
        return members

    def recorded(self, source: Source) -> Iterator[Session]:
        """The requests, in the order in which they were sent."""
        del source
        lengths = zip(*(map(int, self._members[name]) for name in _LENGTHS), strict=True)
        if self.is_dated:
            starts = self._members[_STARTS]
            return by_start((at, *each) for at, each in zip(starts, lengths, strict=True))
        return ([Request(number, 0.0, *each)] for number, each in enumerate(lengths))
