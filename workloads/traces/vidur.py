"""Request files of Vidur (microsoft/vidur, MLSys'24), ``data/processed_traces``.

Two shapes: with a column ``arrived_at`` (seconds; `TraceReplayRequestGenerator`), and without it
(lengths for `TraceRequestLengthGenerator`, whose arrivals come from elsewhere). Both have
``num_prefill_tokens`` and ``num_decode_tokens``; other columns are not read.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from workloads.request import Request, Session
from workloads.traces.columns import cells_of, table
from workloads.traces.head import Head
from workloads.traces.lines import Lines
from workloads.traces.undated import Undated

_LENGTHS = ("num_prefill_tokens", "num_decode_tokens")


@dataclass(frozen=True)
class Vidur(Undated[Lines]):
    """Vidur request files: CSV of num_prefill_tokens, num_decode_tokens, often with arrived_at.

    Arrivals count from the first row, or are drawn where the file has none.
    """

    name = "vidur"
    prefix_identity = "none: the file has lengths only"

    @classmethod
    def sniff(cls, head: Head) -> bool:
        """The two columns that both shapes have."""
        return head.columns >= set(_LENGTHS)

    def source(self) -> Lines:
        """The lines."""
        return Lines(self.path)

    @cached_property
    def is_dated(self) -> bool:
        """Whether there is a column of arrivals."""
        return "arrived_at" in cells_of(next(iter(self.source()), ""))

    def recorded(self, source: Lines) -> Iterator[Session]:
        """One request a row."""
        first: float | None = None
        for number, row in enumerate(table(source, _LENGTHS)):
            at = source.seconds(row, "arrived_at") if self.is_dated else 0.0
            first = at if first is None else first
            prompt, output = (source.whole(row, name, 0) for name in _LENGTHS)
            yield [Request(number, at - first, prompt, output)]
