"""Reports of GuideLLM (vllm-project/guidellm): ``benchmarks.json``.

Every benchmark of the report lists its ``requests`` by outcome; the successful ones have
``prompt_tokens``, ``output_tokens`` and the time of sending: ``request_start_time`` (schema of
release 0.8, `GenerativeRequestStats`), ``start_time`` in early releases.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from workloads.plugins import option
from workloads.request import Session
from workloads.traces.base import Empty, Trace, by_start
from workloads.traces.head import Head
from workloads.traces.items import Items
from workloads.traces.lines import shortened


@dataclass(frozen=True)
class GuideLLM(Trace[Items]):
    """Successful requests of one benchmark of a GuideLLM report: JSON with benchmarks.

    A report that was written with a sample of the requests holds that sample only. Starts and
    lengths of all requests are held at once.
    """

    name = "guidellm"
    prefix_identity = "none: the report has lengths only"

    empty: Empty = option("skip", "requests without a token in or out: refuse, skip, one (token)")
    benchmark: int = option(0, "which benchmark of the report, from 0", low=0, high=10_000)

    @classmethod
    def sniff(cls, head: Head) -> bool:
        """The list of benchmarks, or what stands in front of it."""
        return not head.is_array and (
            "benchmarks" in head.keys or "guidellm_version" in head.text[:4096]
        )

    def source(self) -> Items:
        """The successful requests."""
        return Items(self.path, ("benchmarks", self.benchmark, "requests", "successful"))

    def recorded(self, source: Items) -> Iterator[Session]:
        """The requests, in the order in which they were sent."""
        return by_start(self._rows(source))

    def _rows(self, items: Items) -> Iterator[tuple[float, int, int]]:
        for row in items:
            if type(row) is not dict:
                raise items.error(f"expected an object, got {shortened(row)}")
            items.needs(row, "prompt_tokens", "output_tokens")
            start = "request_start_time" if "request_start_time" in row else "start_time"
            at = items.clock(row, start)
            counts = {name: row[name] or 0 for name in ("prompt_tokens", "output_tokens")}
            prompt, output = (items.whole(counts, name, 0) for name in counts)
            yield at, prompt, output
