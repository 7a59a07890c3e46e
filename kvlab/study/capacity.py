"""The highest rate at which enough requests still meet their objectives, by bisection."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from math import sqrt
from typing import Any, Literal

from kvlab.config import RunConfig
from kvlab.study.points import combinations_of, digest_of, seeds_of
from kvlab.study.schema import Capacity, Study

Verdict = Literal["found", "not even the lowest", "even the highest"]


@dataclass(frozen=True)
class Search:
    """One search: a point without its rate, and where to look."""

    labels: tuple[str, ...]
    config: RunConfig
    capacity: Capacity

    @property
    def id(self) -> str:
        """The digest of everything that the result follows from."""
        return digest_of({"search": self.stated, "capacity": self.capacity.model_dump(mode="json")})

    @property
    def stated(self) -> dict[str, Any]:
        """The configuration as plain data, without a rate."""
        return self.config.model_dump(mode="json", exclude_none=True)


@dataclass(frozen=True)
class Found:
    """What a search found.

    rate: the highest rate tried that meets the objectives, requests a second; None where not even
    the lowest does. probes: every rate tried, in order, with the share of requests in time.
    """

    verdict: Verdict
    rate: float | None
    probes: tuple[tuple[float, float], ...]

    def as_fields(self) -> dict[str, Any]:
        """As plain data, to be stored."""
        return asdict(self)


def searches_of(study: Study) -> list[Search]:
    """One search for each combination of labels and each seed, if the study asks for them."""
    if study.capacity is None:
        return []
    return [
        Search(labels, RunConfig.of({**fields, "seed": seed, "rate": None}), study.capacity)
        for labels, fields in combinations_of(study)
        for seed in seeds_of(study, fields)
    ]


def search(task: Search) -> Found:
    """Run the search; every probe is a whole simulation."""
    from kvlab.running import run

    def share_at(rate: float) -> float:
        config = task.config.model_copy(update={"rate": rate})
        return float(run(config, with_maps=False).summary["slo_share"])

    return bisect(share_at, task.capacity)


def bisect(share_at: Callable[[float], float], wanted: Capacity) -> Found:
    """The highest rate whose share is enough, between rates that are `low` and `high` at first.

    Halves the ratio of the two rates until they are within the tolerance. Where the share does not
    fall steadily with the rate, the result is one rate that is enough beside one that is not, not
    the highest of all.
    """
    probes: list[tuple[float, float]] = []

    def is_enough(rate: float) -> bool:
        probes.append((rate, share_at(rate)))
        return probes[-1][1] >= wanted.share

    low, high = wanted.low, wanted.high
    if not is_enough(low):
        return Found("not even the lowest", None, tuple(probes))
    if is_enough(high):
        return Found("even the highest", high, tuple(probes))
    while high > low * (1 + wanted.tolerance):
        middle = sqrt(low * high)
        if is_enough(middle):
            low = middle
        else:
            high = middle
    return Found("found", low, tuple(probes))
