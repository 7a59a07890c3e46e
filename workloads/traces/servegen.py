"""ServeGen's clients (alibaba/ServeGen, NSDI'26): ``data/<category>/<model>/chunk-*``.

A directory with two files for each client, as ``servegen/clientpool.py`` reads them.
``chunk-I-trace.csv`` has no header: the start of a window (seconds, windows follow each other),
requests a second, coefficient of variation of the gaps, their distribution (``Gamma``,
``Weibull``, or nothing where nothing came) and its two parameters. ``chunk-I-dataset.json`` maps
starts of windows to the shares of lengths in tokens, written as Python dictionaries.
"""

from __future__ import annotations

import ast
import heapq
import json
import math
import os
import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import count
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workloads.errors import InputError
from workloads.plugins import option
from workloads.request import Request, Session
from workloads.traces.base import Trace
from workloads.traces.head import Head
from workloads.traces.lines import MAX_SECONDS, Lines, Source, shortened

_TRACE = re.compile(r"chunk-(\d+)-trace\.csv")
_LENGTHS = ("input_tokens", "output_tokens")
_STEADY = 0.01
Cdf = tuple[NDArray[np.int64], NDArray[np.float64]]


@dataclass(frozen=True)
class ServeGen(Trace[Source]):
    """ServeGen client chunks: a directory of chunk-*-trace.csv and chunk-*-dataset.json.

    Requests are drawn, for every client by itself: gaps of the window's distribution with its
    rate and coefficient of variation, carried over from window to window; input and output
    lengths independently from the window's shares. Images, reasoning shares and conversations are
    not read. All data sets that are used are in memory.
    """

    name = "servegen"
    prefix_identity = "none: lengths only"
    takes_directories = True

    seed: int = option(0, "seed of all that is drawn", low=0, high=2**63 - 1)
    busiest: int | None = option(
        None, "how many clients, those with most requests first; none: all", low=1, high=1e6
    )

    @classmethod
    def sniff(cls, head: Head) -> bool:
        """A directory with chunks."""
        return any(map(_TRACE.fullmatch, head.names))

    def source(self) -> Source:
        """The directory."""
        return _Directory(self.path)

    def recorded(self, source: Source) -> Iterator[Session]:
        """One request each, of all clients, in order of time."""
        clients = [_Client(self.path, number) for number in self._numbers()]
        if self.busiest is not None:
            clients.sort(key=lambda client: (-client.expected, client.number))
            clients = clients[: self.busiest]
        streams = [
            client.requests(np.random.default_rng([self.seed, client.number])) for client in clients
        ]
        ids = count()
        for at, prompt, output in heapq.merge(*streams, key=itemgetter(0)):
            yield [Request(next(ids), at, prompt, output)]

    def _numbers(self) -> list[int]:
        found = map(_TRACE.fullmatch, os.listdir(self.path))
        return sorted(int(match[1]) for match in found if match)


class _Directory(Source):
    def check(self) -> None:
        """Raise `InputError` unless there is a directory with chunks."""
        if not os.path.isdir(self.path) or not any(map(_TRACE.fullmatch, os.listdir(self.path))):
            raise InputError(f"{self.path}: expected a directory with files chunk-*-trace.csv")


@dataclass(frozen=True)
class _Window:
    """A stretch of time (seconds) with one rate (requests a second) and one shape of gaps."""

    start: float
    rate: float
    cv: float
    shape: str


class _Client:
    def __init__(self, directory: str, number: int) -> None:
        self.number = number
        self._lengths = _Lengths(os.path.join(directory, f"chunk-{number}-dataset.json"))
        self._windows = list(_windows(os.path.join(directory, f"chunk-{number}-trace.csv")))

    @property
    def expected(self) -> float:
        """Requests that the windows announce."""
        return sum((end - each.start) * each.rate for each, end in self._with_ends())

    def _with_ends(self) -> list[tuple[_Window, float]]:
        """Windows and their ends; the last is as long as the one in front of it."""
        starts = [each.start for each in self._windows]
        last = 2 * starts[-1] - starts[-2] if len(starts) > 1 else starts[0] + 600.0
        return list(zip(self._windows, [*starts[1:], last], strict=True))

    def requests(self, rng: np.random.Generator) -> Iterator[tuple[float, int, int]]:
        """Time, tokens in, tokens out, for ever rising.

        Gaps are drawn for a rate of 1 and stretched as the rate goes, so that a burst goes on
        across the border of windows. The first one is cut at random: nobody starts at time 0.
        """
        gap = -1.0
        for window, end in self._with_ends():
            cdfs = self._lengths.at(window.start) if window.rate else None
            if cdfs is None:
                continue
            if gap < 0:
                gap = _gap(rng, window) * rng.random()
            at = window.start
            while (following := at + gap / window.rate) < end:
                at = following
                yield at, _drawn(rng, cdfs[0]), _drawn(rng, cdfs[1])
                gap = _gap(rng, window)
            gap -= (end - at) * window.rate


class _Lengths:
    """The shares of lengths of a client, window by window."""

    def __init__(self, path: str) -> None:
        try:
            with open(path, encoding="utf-8") as file:
                self._shares = dict[str, dict[str, str]](json.load(file).items())
            self._starts = sorted(map(int, self._shares))
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror}") from error
        except (ValueError, AttributeError, TypeError) as error:
            raise InputError(f"{path}: expected a JSON object of windows by start") from error
        self._path = path
        self._cached: tuple[int, tuple[Cdf, Cdf] | None] | None = None

    def at(self, second: float) -> tuple[Cdf, Cdf] | None:
        """The lengths in and out of the last window that has begun; None before the first."""
        place = bisect_right(self._starts, second) - 1
        if place < 0:
            return None
        if self._cached is None or self._cached[0] != place:
            self._cached = place, self._read(self._starts[place])
        return self._cached[1]

    def _read(self, start: int) -> tuple[Cdf, Cdf] | None:
        shares = self._shares[str(start)]
        try:
            prompt, output = (_cdf(ast.literal_eval(str(shares[name]))) for name in _LENGTHS)
        except (LookupError, TypeError, ArithmeticError, ValueError, SyntaxError) as error:
            raise InputError(
                f"{self._path}: window {start}: expected {', '.join(_LENGTHS)}, each a dictionary "
                "of shares by tokens"
            ) from error
        return None if prompt is None or output is None else (prompt, output)


def _windows(path: str) -> Iterator[_Window]:
    lines = Lines(path)
    before = -math.inf
    for text in lines:
        cells = text.split(",")
        try:
            start, rate, cv = map(float, cells[:3])
            shape = cells[3].strip().lower()
            map(float, cells[4:6])
        except (ValueError, IndexError) as error:
            raise lines.error(
                f"expected start,rate,cv,distribution,parameter,parameter, got {shortened(text)}"
            ) from error
        if shape not in ("", "gamma", "weibull") or not (0 <= rate < 1e9 and 0 <= cv < 1e3):
            raise lines.error(
                f"expected Gamma or Weibull gaps with a finite rate and cv, got {shortened(text)}"
            )
        if not max(0.0, before) <= start <= MAX_SECONDS or start == before:
            raise lines.error(f"expected windows in order of their starts, got {cells[0]}")
        before = start
        yield _Window(start, rate if shape else 0.0, cv, shape)
    if before == -math.inf:
        raise lines.error("expected at least one window")


def _cdf(shares: dict[Any, float]) -> Cdf | None:
    """Lengths and their cumulated shares, or None for no shares."""
    if not shares:
        return None
    lengths = np.array(sorted(shares), np.int64)
    cumulated = np.cumsum([float(shares[length]) for length in sorted(shares)])
    if lengths[0] < 0 or not cumulated[-1] > 0 or min(shares.values()) < 0:
        raise ValueError("negative lengths or shares")
    return np.maximum(lengths, 1), cumulated / cumulated[-1]


def _drawn(rng: np.random.Generator, cdf: Cdf) -> int:
    lengths, cumulated = cdf
    return int(lengths[int(np.searchsorted(cumulated, rng.random(), side="right"))])


def _gap(rng: np.random.Generator, window: _Window) -> float:
    """A gap with mean 1 and the window's coefficient of variation."""
    if window.cv < _STEADY:
        return 1.0
    if window.shape == "gamma":
        shape = window.cv**-2
        return float(rng.gamma(shape, 1 / shape))
    shape = _weibull_shape(window.cv)
    return float(rng.weibull(shape)) / math.gamma(1 + 1 / shape)


@lru_cache(maxsize=4096)
def _weibull_shape(cv: float) -> float:
    """The shape of the Weibull distribution with this coefficient of variation: bisection."""
    low, high = 0.05, 200.0
    for _ in range(60):
        middle = math.sqrt(low * high)
        ratio = math.exp(math.lgamma(1 + 2 / middle) - 2 * math.lgamma(1 + 1 / middle))
        low, high = (middle, high) if ratio - 1 > cv * cv else (low, middle)
    return low
