"""One measurement: which kernel, on what, and how long it took."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sim.timing.terms import Terms


@dataclass(frozen=True)
class Point:
    """Something to measure. params: what identifies it among the points of its kernel."""

    kernel: str
    params: tuple[tuple[str, Any], ...]

    @classmethod
    def of(cls, kernel: str, **params: Any) -> Point:
        """A point of ``kernel`` with these parameters."""
        return cls(kernel, tuple(params.items()))

    def __getitem__(self, name: str) -> Any:
        return dict(self.params)[name]

    @property
    def key(self) -> str:
        """One line that names the point."""
        return " ".join([self.kernel, *(f"{name}={value}" for name, value in self.params)])


@dataclass(frozen=True)
class Sample:
    """A measured point. seconds: the median; low, high: 10th and 90th percentile; n: repeats."""

    point: Point
    terms: Terms
    seconds: float
    low: float
    high: float
    n: int

    def to_json(self) -> dict[str, Any]:
        """As a line of the journal and a row of the file hold it."""
        return {
            "kernel": self.point.kernel,
            "params": dict(self.point.params),
            "terms": self.terms,
            "seconds": self.seconds,
            "low": self.low,
            "high": self.high,
            "n": self.n,
        }

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Sample:
        """The inverse of `to_json`."""
        point = Point(row["kernel"], tuple(row["params"].items()))
        return cls(point, row["terms"], row["seconds"], row["low"], row["high"], row["n"])
