"""Reports of inference-perf (kubernetes-sigs): ``per_request_lifecycle_metrics.json``.

One array of requests with ``start_time`` and ``end_time`` (seconds) and ``info``, which holds the
lengths: ``input_tokens`` and ``output_tokens`` in early releases, ``request_metrics.text`` and
``response_metrics`` since (``reportgen/base.py``, release 0.7). A failed request has an ``error``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from workloads.plugins import option
from workloads.request import Session
from workloads.traces.base import Empty, Trace, by_start
from workloads.traces.head import Head
from workloads.traces.items import Items
from workloads.traces.lines import shortened

_FIELDS = ("start_time", "end_time", "info")


@dataclass(frozen=True)
class InferencePerf(Trace[Items]):
    """Requests of an inference-perf report: JSON array of start_time and info with the lengths.

    Failed requests are left out. Starts and lengths of all requests are held at once.
    """

    name = "inference-perf"
    prefix_identity = "none: the report has lengths only"

    empty: Empty = option("skip", "requests without a token in or out: refuse, skip, one (token)")

    @classmethod
    def sniff(cls, head: Head) -> bool:
        """The fields that every request has; long ones may stand in front of info."""
        return head.is_array and head.keys >= {"start_time", "end_time"}

    def source(self) -> Items:
        """The requests."""
        return Items(self.path)

    def recorded(self, source: Items) -> Iterator[Session]:
        """The requests, in the order in which they were sent."""
        return by_start(self._rows(source))

    def _rows(self, items: Items) -> Iterator[tuple[float, int, int]]:
        for row in items:
            if type(row) is not dict:
                raise items.error(f"expected an object, got {shortened(row)}")
            items.needs(row, *_FIELDS)
            at = items.clock(row, "start_time")
            prompt, output = _lengths(items, row)
            yield at, prompt, 0 if row.get("error") else output


def _lengths(items: Items, row: dict[str, Any]) -> tuple[int, int]:
    """Tokens of prompt and output; 0 where the report has none."""
    request = response = _object(items, row, "info")
    if "request_metrics" in request:
        request = _object(items, _object(items, request, "request_metrics"), "text")
        response = _object(items, response, "response_metrics")
    counts = {
        "input_tokens": request.get("input_tokens") or 0,
        "output_tokens": response.get("output_tokens") or 0,
    }
    return items.whole(counts, "input_tokens", 0), items.whole(counts, "output_tokens", 0)


def _object(items: Items, row: dict[str, Any], key: str) -> dict[str, Any]:
    value = row.get(key)
    if value is not None and type(value) is not dict:
        raise items.error(f"{key}: expected an object or null, got {shortened(value)}")
    return value or {}
