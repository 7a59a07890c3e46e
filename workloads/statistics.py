"""Numbers that describe a workload."""

from __future__ import annotations

from array import array
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workloads.nominal import served
from workloads.parts import Parts
from workloads.request import Workload
from workloads.sharing import Sharing, SharingCounter

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

SECONDS_PER_TOKEN = 0.02
"""Pace of the nominal engine if none is stated: 50 tokens a second for everybody."""

_SHARES = (0.5, 0.9, 0.99)


@dataclass(frozen=True)
class Statistics:
    """A workload in numbers; arrays have one entry a request, in order of nominal arrival.

    starts, ends: seconds, from an engine with room for everybody that takes
    ``seconds_per_token`` for each token of an output. They are the workload's own where requests
    wait for nobody; then only the ends are nominal.
    """

    workload: str
    prefix_identity: str
    clients: int | None
    sessions: int
    waiting: int
    seconds_per_token: float
    prompts: Integers
    outputs: Integers
    starts: Floats
    ends: Floats
    slo_classes: dict[str, int]
    samples: int
    beam_width: int
    sharing: Sharing

    @cached_property
    def concurrency(self) -> tuple[Floats, Integers]:
        """Times at which the number of requests under way changes, and the numbers from then on."""
        times = np.concatenate((self.starts, self.ends))
        change = np.repeat(np.array([1, -1]), self.starts.size)
        # Ends before starts at the same time: who leaves does not meet who comes.
        order = np.lexsort((change, times))
        return times[order], np.cumsum(change[order])

    def reuse_curve(self) -> tuple[Integers, Floats]:
        """Sizes of an LRU cache (tokens, rising) and the share of prompt tokens that it gives."""
        order = np.argsort(self.sharing.distances, kind="stable")
        gained = np.cumsum(self.sharing.reused[order])
        return self.sharing.distances[order], gained / max(1, int(self.prompts.sum()))

    def hit_rates(self, block_size: int = 1) -> tuple[float, float]:
        """Ideal hit rate of unlimited cache: of all prompt tokens, and the mean over requests.

        With a ``block_size`` above 1 only whole blocks count, and the last token of a prompt is
        always computed, as in vLLM.
        """
        hits = self.sharing.hits
        if block_size > 1:
            hits = np.minimum(hits, self.prompts - 1) // block_size * block_size
        return float(hits.sum() / self.prompts.sum()), float(np.mean(hits / self.prompts))

    def summary(self, block_size: int = 1) -> dict[str, Any]:
        """All numbers that are no arrays, nested by topic, ready for JSON."""
        return {
            "workload": self.workload,
            "requests": int(self.prompts.size),
            "sessions": self.sessions,
            "waiting_requests": self.waiting,
            "clients": self.clients,
            "slo_classes": self.slo_classes,
            "most_samples": self.samples,
            "widest_beam": self.beam_width,
            "prompt_tokens": _distribution(self.prompts),
            "output_tokens": _distribution(self.outputs),
            "arrivals": self._arrivals(),
            "concurrency": self._concurrency(),
            "prefix": self._prefix(block_size),
            "reuse": self._reuse(),
        }

    def _arrivals(self) -> dict[str, Any]:
        gaps = np.diff(self.starts)
        span = float(self.starts[-1] - self.starts[0])
        return {
            "nominal": self.waiting > 0 or self.clients is not None,
            "first_s": float(self.starts[0]),
            "last_s": float(self.starts[-1]),
            "requests_per_s": gaps.size / span if span else None,
            "gap_cv": float(gaps.std() / gaps.mean()) if span else None,
            "most_in_10_s": _most_within(self.starts, 10.0),
        }

    def _concurrency(self) -> dict[str, Any]:
        times, running = self.concurrency
        span = times[-1] - times[0]
        return {
            "seconds_per_token": self.seconds_per_token,
            "mean": float(np.sum(running[:-1] * np.diff(times)) / span) if span else None,
            "most": int(running.max()),
        }

    def _prefix(self, block_size: int) -> dict[str, Any]:
        tokens, requests = self.hit_rates(block_size)
        total = int(self.prompts.sum())
        return {
            "identity": self.prefix_identity,
            "block_size": block_size,
            "ideal_hit_rate_tokens": tokens,
            "ideal_hit_rate_requests": requests,
            "shared_prompt_tokens": self.sharing.shared / total,
            "distinct_prompt_tokens": self.sharing.distinct,
            "groups": self.sharing.groups,
            "depth": self.sharing.depth,
        }

    def _reuse(self) -> dict[str, Any]:
        sizes, rates = self.reuse_curve()
        if not sizes.size:
            return {"lru_tokens_for_share_of_ideal": None}
        at = {
            f"{share:.0%}": int(sizes[int(np.searchsorted(rates, share * rates[-1]))])
            for share in _SHARES
        }
        return {"lru_tokens_for_share_of_ideal": at}


def statistics_of(workload: Workload, seconds_per_token: float = SECONDS_PER_TOKEN) -> Statistics:
    """Serve a workload once, nominally, and count.

    Memory: a few numbers a request, and some more for every branch of its prefix paths.
    """
    traffic = workload.traffic()
    prompts, outputs, starts, ends = array("q"), array("q"), array("d"), array("d")
    sharing = SharingCounter()
    classes: Counter[str] = Counter()
    parts = Parts()
    sessions = waiting = samples = beam_width = 0
    for request, start, end in served(traffic, seconds_per_token):
        prompts.append(request.prompt)
        outputs.append(request.output)
        starts.append(start)
        ends.append(end)
        sharing.see(request)
        classes[request.slo_class] += 1
        waiting += bool(request.after)
        sessions += 1 - sum(parts.join(request.id, other) for other in request.after)
        samples = max(samples, request.samples)
        beam_width = max(beam_width, request.beam_width)
    return Statistics(
        workload.name,
        workload.prefix_identity,
        traffic.clients,
        sessions,
        waiting,
        seconds_per_token,
        np.array(prompts, np.int64),
        np.array(outputs, np.int64),
        np.array(starts, np.float64),
        np.array(ends, np.float64),
        dict(sorted(classes.items())),
        samples,
        beam_width,
        sharing.result(),
    )


def _distribution(values: Integers) -> dict[str, Any]:
    p50, p90, p99 = np.quantile(values, _SHARES, method="inverted_cdf").tolist()
    return {
        "total": int(values.sum()),
        "mean": float(values.mean()),
        "p50": p50,
        "p90": p90,
        "p99": p99,
        "max": int(values.max()),
    }


def _most_within(times: Floats, seconds: float) -> int:
    """The most entries of the sorted ``times`` that lie within so many seconds."""
    first = np.searchsorted(times, times - seconds, side="right")
    return int((np.arange(times.size) + 1 - first).max())
