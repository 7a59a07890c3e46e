"""How long prompts and outputs are: distributions of token counts, drawn in batches."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from workloads.errors import InputError
from workloads.plugins import Part, option
from workloads.registry import Registry

MAX_TOKENS = 10**9
"""No request is believed to have more tokens than this."""

Tokens = NDArray[np.int64]

_WHOLE = 24
_LOGS = [math.log(k + 0.5) for k in range(_WHOLE + 1)]


def _normal_below(x: float) -> float:
    return 0.5 * math.erfc(-x / math.sqrt(2))


def _kept_share(location: float, sigma: float, longest: int) -> float:
    """The probability that an unrestricted draw rounds to a length from 1 to ``longest``."""
    low, high = ((math.log(x) - location) / sigma for x in (0.5, longest + 0.5))
    return _normal_below(high) - _normal_below(low)


def _mean_of(location: float, sigma: float, longest: int) -> float:
    """The mean after truncation and rounding (nan where nearly nothing is kept).

    Lengths up to `_WHOLE` are summed one by one, since there rounding matters; beyond it does not,
    and the mean of the continuous tail has a closed form.
    """
    kept = _kept_share(location, sigma, longest)
    if kept < 1e-9:
        return math.nan
    whole = min(_WHOLE, longest)
    edges = [(log - location) / sigma for log in _LOGS[: whole + 1]]
    below = [_normal_below(edge) for edge in edges]
    total = sum(k * (below[k] - below[k - 1]) for k in range(1, whole + 1))
    last = (math.log(longest + 0.5) - location) / sigma
    tail = _normal_below(last - sigma) - _normal_below(edges[-1] - sigma)
    return (total + math.exp(location + sigma**2 / 2) * tail) / kept


@lru_cache(maxsize=256)
def _location_of(mean: float, sigma: float, longest: int) -> float:
    """The location of the lognormal whose mean is ``mean``: bisection, as the mean rises with it.

    Searched only where at least a fifth or so of the draws are kept; a mean out of reach ends at
    the border, where `Lognormal` refuses it.
    """
    low, high = math.log(0.5) - sigma, math.log(longest) + sigma
    for _ in range(40):
        middle = (low + high) / 2
        if _mean_of(middle, sigma, longest) < mean:
            low = middle
        else:
            high = middle
    return (low + high) / 2


class Lengths(Part):
    """A distribution of token counts. Every draw is a whole number from 1 to ``longest``."""

    registry: ClassVar[Registry] = Registry("length distribution", "kvlab.lengths")

    @property
    @abstractmethod
    def longest(self) -> int:
        """No draw is longer (tokens)."""

    @property
    @abstractmethod
    def mean(self) -> float:
        """The expected draw (tokens)."""

    @abstractmethod
    def draw(self, rng: np.random.Generator, n: int) -> Tokens:
        """``n`` independent lengths; advances ``rng``."""


@dataclass(frozen=True)
class Constant(Lengths):
    """Always the same length."""

    name = "constant"
    tokens: int = option(text="tokens of every draw", low=1, high=MAX_TOKENS)

    @property
    def longest(self) -> int:
        """The one length."""
        return self.tokens

    @property
    def mean(self) -> float:
        """The one length."""
        return float(self.tokens)

    def draw(self, rng: np.random.Generator, n: int) -> Tokens:
        """``n`` times the one length."""
        return np.full(n, self.tokens, np.int64)


@dataclass(frozen=True)
class Uniform(Lengths):
    """Every length from ``low`` to ``high`` is equally likely."""

    name = "uniform"
    low: int = option(text="shortest length, tokens", low=1, high=MAX_TOKENS)
    high: int = option(text="longest length, tokens", low=1, high=MAX_TOKENS)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.high < self.low:
            raise InputError(
                f"uniform: high: expected at least low ({self.low}), got {self.high!r}"
            )

    @property
    def longest(self) -> int:
        """The upper end."""
        return self.high

    @property
    def mean(self) -> float:
        """The middle of the range."""
        return (self.low + self.high) / 2

    def draw(self, rng: np.random.Generator, n: int) -> Tokens:
        """``n`` lengths of the range, both ends included."""
        return rng.integers(self.low, self.high, n, endpoint=True)


@dataclass(frozen=True)
class Lognormal(Lengths):
    """A heavy-tailed shape with a stated mean.

    The logarithm of a length is normal with standard deviation ``sigma``; what falls outside 1
    to ``longest`` is drawn again, the rest rounded. The location is solved for so that the mean
    after truncation and rounding is ``tokens``.
    """

    name = "lognormal"
    tokens: float = option(text="mean, tokens", low=1, high=MAX_TOKENS)
    sigma: float = option(1.0, "standard deviation of the logarithm", low=1e-3, high=4)
    longest: int = option(2048, "longest length, tokens", low=2, high=MAX_TOKENS)

    def __post_init__(self) -> None:
        super().__post_init__()
        # A mean at the very end of the range would need nearly all draws to be thrown away.
        if _kept_share(self._location, self.sigma, self.longest) < 0.2:
            raise InputError(
                f"lognormal: tokens: expected a mean well inside 1 to {self.longest} "
                f"for sigma {self.sigma:g}, got {self.tokens!r}"
            )

    @cached_property
    def _location(self) -> float:
        return _location_of(self.tokens, self.sigma, self.longest)

    @property
    def mean(self) -> float:
        """The stated mean."""
        return self.tokens

    def draw(self, rng: np.random.Generator, n: int) -> Tokens:
        """``n`` lengths; those out of range are drawn again until none is left."""
        lengths = rng.lognormal(self._location, self.sigma, n)
        while (outside := np.flatnonzero((lengths < 0.5) | (lengths >= self.longest + 0.5))).size:
            lengths[outside] = rng.lognormal(self._location, self.sigma, outside.size)
        # Half a token added and cut off: rounding that takes the two ends of the range inside.
        return (lengths + 0.5).astype(np.int64)


@dataclass(frozen=True)
class Empirical(Lengths):
    """Lengths seen somewhere, drawn with replacement: ``values`` in any order, repeats count."""

    name = "empirical"
    values: tuple[int, ...] = option(text="observed lengths, tokens")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.values or any(
            type(value) is not int or not 1 <= value <= MAX_TOKENS for value in self.values
        ):
            raise InputError(
                f"empirical: values: expected whole numbers of 1 to {MAX_TOKENS} tokens, "
                "at least one"
            )

    @property
    def longest(self) -> int:
        """The longest observation."""
        return max(self.values)

    @property
    def mean(self) -> float:
        """The mean of the observations."""
        return sum(self.values) / len(self.values)

    def draw(self, rng: np.random.Generator, n: int) -> Tokens:
        """``n`` of the observations."""
        return rng.choice(np.array(self.values, np.int64), n)


# Models of the two data sets of the PagedAttention paper (SOSP'23, section 6.1). Published are
# the four means and the limit of 2048 tokens. The lognormal shape and its sigma are this
# project's own choice, made to look plausible: ShareGPT prompts are mostly short questions with
# pasted texts among them, its answers are broad; Alpaca prompts are one-sentence instructions.
# Nothing here was fitted to the texts themselves.
SHAREGPT_PROMPT = Lognormal(161.31, sigma=1.5, longest=2048)
SHAREGPT_OUTPUT = Lognormal(337.99, sigma=1.0, longest=2048)
ALPACA_PROMPT = Lognormal(19.31, sigma=0.5, longest=2048)
ALPACA_OUTPUT = Lognormal(58.45, sigma=1.0, longest=2048)
