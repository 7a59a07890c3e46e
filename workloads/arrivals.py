"""When sessions start: arrival processes, drawn in batches, and the closed loop of clients."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from workloads.errors import InputError
from workloads.plugins import Part, option
from workloads.registry import Registry
from workloads.request import Session, Traffic
from workloads.sessions import ClosedTraffic, OpenTraffic, started
from workloads.spec import workload_of

Seconds = NDArray[np.float64]

_BATCH = 4096
_MAX_RATE = 1e9


def _rate(default: Any = 1.0) -> Any:
    return option(default, "mean starts a second", low=1e-9, high=_MAX_RATE)


class Arrivals(Part):
    """A rule for when sessions start."""

    registry: ClassVar[Registry] = Registry("arrival process", "kvlab.arrivals")

    @abstractmethod
    def traffic(self, sessions: Iterator[Session], rng: np.random.Generator) -> Traffic:
        """Traffic that takes ``sessions`` one by one as they start; draws times from ``rng``."""

    def at_rate(self, rate: float) -> Self:
        """The same process with ``rate`` starts a second on average; raises `InputError`."""
        raise InputError(
            f"rate: arrivals {self.name!r} has no rate to be set to {rate:g}; expected another "
            "process, such as arrivals=poisson"
        )


class OpenLoop(Arrivals):
    """Sessions start at times that do not depend on the engine."""

    @abstractmethod
    def batches(self, rng: np.random.Generator) -> Iterator[Seconds]:
        """Start times, never falling, from 0 on, batch by batch; may end."""

    def traffic(self, sessions: Iterator[Session], rng: np.random.Generator) -> Traffic:
        """Open-loop traffic; it ends when the sessions or the times do."""
        times = (at for batch in self.batches(rng) for at in batch.tolist())
        return OpenTraffic(started(sessions, times))


class _Rated(OpenLoop):
    """Open-loop processes with a field ``rate``."""

    def at_rate(self, rate: float) -> Self:
        """The same process at another mean rate (starts a second)."""
        return replace(self, rate=rate)  # type: ignore[type-var]


class _Renewal(_Rated):
    """Independent, equally distributed gaps."""

    @abstractmethod
    def gaps(self, rng: np.random.Generator, n: int) -> Seconds:
        """``n`` gaps between starts (seconds)."""

    def batches(self, rng: np.random.Generator) -> Iterator[Seconds]:
        """The running sum of the gaps, for ever."""
        last = 0.0
        while True:
            times = last + np.cumsum(self.gaps(rng, _BATCH))
            last = float(times[-1])
            yield times


@dataclass(frozen=True)
class Poisson(_Renewal):
    """Independent clients: exponential gaps."""

    name = "poisson"
    rate: float = _rate()

    def gaps(self, rng: np.random.Generator, n: int) -> Seconds:
        """Exponential gaps."""
        return rng.exponential(1 / self.rate, n)


@dataclass(frozen=True)
class Gamma(_Renewal):
    """Bursty arrivals: gamma-distributed gaps with a stated coefficient of variation."""

    name = "gamma"
    rate: float = _rate()
    cv: float = option(2.0, "standard deviation of a gap over its mean", low=0.01, high=100)

    def gaps(self, rng: np.random.Generator, n: int) -> Seconds:
        """Gamma gaps; ``cv`` 1 is Poisson, above is burstier."""
        shape = self.cv**-2
        return rng.gamma(shape, 1 / (self.rate * shape), n)


@dataclass(frozen=True)
class ConstantRate(_Rated):
    """Equal gaps; the first start is at time 0."""

    name = "constant"
    rate: float = _rate()

    def batches(self, rng: np.random.Generator) -> Iterator[Seconds]:
        """Multiples of the gap, each rounded once."""
        first = 0
        while True:
            yield np.arange(first, first + _BATCH) / self.rate
            first += _BATCH


@dataclass(frozen=True)
class OnOff(_Rated):
    """Phases of traffic and of silence: a Poisson process that is switched on and off.

    Both kinds of phases have exponential lengths; the first is on. While on, sessions start at
    ``rate * (on + off) / on``, so that ``rate`` is the mean in the long run.
    """

    name = "on-off"
    rate: float = _rate()
    on: float = option(10.0, "mean length of a phase with traffic, seconds", low=1e-6, high=1e9)
    off: float = option(30.0, "mean length of a silent phase, seconds", low=0, high=1e9)

    def batches(self, rng: np.random.Generator) -> Iterator[Seconds]:
        """Poisson times on the clock of the phases that are on, then spread over all."""
        inner = Poisson(self.rate * (self.on + self.off) / self.on).batches(rng)
        ends = np.cumsum(rng.exponential(self.on, _BATCH))
        silence = np.concatenate(([0.0], np.cumsum(rng.exponential(self.off, _BATCH))))
        for times in inner:
            while times[-1] >= ends[-1]:
                more = ends[-1] + np.cumsum(rng.exponential(self.on, _BATCH))
                quiet = silence[-1] + np.cumsum(rng.exponential(self.off, _BATCH))
                # Phases that are over are forgotten.
                over = int(np.searchsorted(ends, times[0], side="right"))
                ends = np.concatenate((ends[over:], more))
                silence = np.concatenate((silence[over:], quiet))
            yield times + silence[np.searchsorted(ends, times, side="right")]


@dataclass(frozen=True)
class Diurnal(_Rated):
    """Day and night: a Poisson process whose rate swings like a sine.

    The rate at time t is ``rate * (1 + swing * cos(2 pi (t - peak) / period))``: ``rate`` is the
    mean over whole periods.
    """

    name = "diurnal"
    rate: float = _rate()
    period: float = option(86_400.0, "seconds from peak to peak", low=1e-3, high=1e9)
    swing: float = option(0.8, "how far the rate goes up and down, as a share", low=0, high=1)
    peak: float = option(43_200.0, "a second at which the rate is highest", low=0, high=1e9)

    def batches(self, rng: np.random.Generator) -> Iterator[Seconds]:
        """Thinning: times at the highest rate, each kept with the share that the rate then has."""
        for times in Poisson(self.rate * (1 + self.swing)).batches(rng):
            phase = 2 * np.pi * (times - self.peak) / self.period
            share = (1 + self.swing * np.cos(phase)) / (1 + self.swing)
            yield times[rng.random(times.size) < share]


@dataclass(frozen=True)
class AtOnce(OpenLoop):
    """Everything is there at time 0 (offline work)."""

    name = "at-once"

    def batches(self, rng: np.random.Generator) -> Iterator[Seconds]:
        """Zeros."""
        while True:
            yield np.zeros(_BATCH)


@dataclass(frozen=True)
class Replay(OpenLoop):
    """The arrival times of another workload, say a trace; ends with it."""

    name = "replay"
    trace: str = option(text="workload whose arrival times are used, as azure:PATH")
    rate: float | None = _rate(None)
    speedup: float = option(1.0, "how many times faster", low=1e-6, high=1e6)

    def at_rate(self, rate: float) -> Self:
        """The same times, stretched to a mean rate (starts a second)."""
        return replace(self, rate=rate)

    def batches(self, rng: np.random.Generator) -> Iterator[Seconds]:
        """The times as recorded, scaled."""
        arrivals = workload_of(self.trace, rate=self.rate).traffic().arrivals()
        times = (request.arrival for request in arrivals)
        while (batch := np.fromiter(islice(times, _BATCH), np.float64)).size:
            yield batch / self.speedup


@dataclass(frozen=True)
class ClosedLoop(Arrivals):
    """A fixed number of clients, each with one session under way at most."""

    name = "closed"
    clients: int = option(8, "clients that send requests", low=1, high=1e6)

    def traffic(self, sessions: Iterator[Session], rng: np.random.Generator) -> Traffic:
        """Closed-loop traffic: the next session starts when one has ended."""
        return ClosedTraffic(sessions, self.clients)
