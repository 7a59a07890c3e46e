"""Whether something takes longer than before, from repeated measurements that are noisy.

Old and new are measured in turns on one machine (one run of each, then the next), and only runs
of the same few turns are compared with each other, so that what drifts drifts for both. A change
is called one only if two things hold: the Mann-Whitney U test, stratified by these groups of turns
(van Elteren, 1960), is sure to `ALPHA`, and the shift (Hodges-Lehmann: the median of the ratios of
a new run to an old one of its group) is at least `FLOOR`. The test alone would call differences
that nobody can feel, the shift alone would call noise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from reports.bench_formats import Measured
from workloads.errors import InputError

ALPHA = 1e-3
FLOOR = 0.025
FEWEST = 8
"""Runs of each kind; with fewer the test cannot be as sure as `ALPHA` asks."""
RUNS = 30
"""Runs of each kind that find a shift of 5 % in noise of 2 % nearly always."""

TURNS = 3
"""Turns of a group. Noise that lasts longer than they do is taken out: with real times on a busy
machine groups of three find twice as many slow-downs as one group of all, without false alarms."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Timing:
    """One benchmark, old against new.

    ratio: new over old, Hodges-Lehmann. p: of a shift in the direction found. old, new: medians,
    in the unit of the measurements.
    """

    name: str
    kind: Literal["slower", "faster", "alike"]
    ratio: float
    p: float
    old: float
    new: float
    runs: int

    @property
    def line(self) -> str:
        """In words."""
        return (
            f"{self.name}: {self.old:.4g} -> {self.new:.4g} s,"
            f" {100 * (self.ratio - 1):+.1f} % (p {self.p:.1e}, {self.runs} runs each): {self.kind}"
        )


def judge(name: str, old: Sequence[float], new: Sequence[float]) -> Timing:
    """Compare times (or anything else that is better when smaller) of old and new runs, in turns.

    Raises `InputError` for fewer than `FEWEST` runs, for more of one kind than of the other, and
    for values that are not positive.
    """
    from scipy.stats import norm, rankdata

    before, after = np.array(old, dtype=float), np.array(new, dtype=float)
    if min(len(before), len(after)) < FEWEST or len(before) != len(after):
        raise InputError(
            f"{name}: expected at least {FEWEST} runs of each and as many of the one as of the"
            f" other, got {len(before)} and {len(after)}"
        )
    if not (np.isfinite(before).all() and np.isfinite(after).all()):
        raise InputError(f"{name}: expected finite times")
    if min(before.min(), after.min()) <= 0:
        raise InputError(f"{name}: expected times above zero")
    above, variance, ratios = 0.0, 0.0, []
    for places in np.array_split(np.arange(len(before)), len(before) // TURNS):
        size, ours, theirs = len(places), after[places], before[places]
        ranks = rankdata(np.concatenate((ours, theirs)))
        # Stratum by stratum: how far the new runs' ranks are above their mean, and its variance.
        above += ranks[:size].sum() - size * (2 * size + 1) / 2
        variance += size * size * (2 * size + 1) / 12
        ratios.append((ours[:, None] / theirs[None, :]).ravel())
    ratio = float(np.median(np.concatenate(ratios)))
    p = float(norm.sf(above / np.sqrt(variance) * (1 if ratio > 1 else -1)))
    is_change = p <= ALPHA and abs(np.log(ratio)) >= np.log1p(FLOOR)
    kind: Literal["slower", "faster", "alike"] = "alike"
    if is_change:
        kind = "slower" if ratio > 1 else "faster"
    medians = float(np.median(before)), float(np.median(after))
    return Timing(name, kind, ratio, p, *medians, len(before))


def markdown(timings: Sequence[Timing]) -> str:
    """A table for the summary of a pull request."""
    lines = [
        "| benchmark | old | new | change | p | |",
        "| --- | ---: | ---: | ---: | ---: | --- |",
    ]
    lines += [
        f"| {each.name} | {each.old:.4g} | {each.new:.4g} | {100 * (each.ratio - 1):+.1f} %"
        f" | {each.p:.1e} | {each.kind} |"
        for each in timings
    ]
    return "\n".join(lines) + "\n"


def measured_rows(times: Mapping[str, Sequence[float]]) -> list[Measured]:
    """Medians of times in seconds by benchmark, for the services that keep histories."""
    rows = []
    for name, runs in times.items():
        spread = float(np.subtract(*np.percentile(runs, (75, 25)))) / 2
        rows.append(Measured(f"{name}/cpu_s", float(np.median(runs)), "s", True, spread))
    return rows


# History.

SHORTEST = 5
"""Entries of a history that a stretch between two changes has at least."""
SHUFFLES = 1999
"""With which a change is compared to chance; p can be 1 / 2000 at the least."""
HISTORY_ALPHA = 1e-3


@dataclass(frozen=True)
class ChangePoint:
    """Where a history changes. index: of the first entry after. before, after: medians."""

    index: int
    before: float
    after: float

    @property
    def ratio(self) -> float:
        """What is after as a share of what was before."""
        return self.after / self.before


def change_points(history: Sequence[float]) -> list[ChangePoint]:
    """Where the level of a series changes, in order; needs no model of its noise.

    Binary segmentation: of all places to split, the one with the largest Mann-Whitney statistic
    is a change if fewer than `HISTORY_ALPHA` of shuffled series have one as large and the medians
    differ by `FLOOR`; then both sides are searched. Deterministic.
    """
    values = np.array(history, dtype=float)
    splits = sorted(_splits_of(values, 0, np.random.default_rng(0)))
    edges = [0, *splits, len(values)]
    found = []
    for left, at, right in zip(edges, splits, edges[2:], strict=False):
        before, after = float(np.median(values[left:at])), float(np.median(values[at:right]))
        found.append(ChangePoint(at, before, after))
    return found


def _splits_of(values: Floats, start: int, rng: np.random.Generator) -> list[int]:
    n = len(values)
    if n < 2 * SHORTEST:
        return []
    ranks = _ranks_of(values)
    statistics = _statistics_of(ranks[None, :])[0]
    best = int(np.argmax(statistics))
    at = best + SHORTEST
    shuffled = rng.permuted(np.tile(ranks, (SHUFFLES, 1)), axis=1)
    as_large = int((_statistics_of(shuffled).max(axis=1) >= statistics[best] - 1e-9).sum())
    left, right = np.median(values[:at]), np.median(values[at:])
    if (as_large + 1) / (SHUFFLES + 1) > HISTORY_ALPHA or abs(right / left - 1) < FLOOR:
        return []
    return [
        *_splits_of(values[:at], start, rng),
        start + at,
        *_splits_of(values[at:], start + at, rng),
    ]


def _ranks_of(values: Floats) -> Floats:
    from scipy.stats import rankdata

    ranks: Floats = rankdata(values)
    return ranks


def _statistics_of(ranks: Floats) -> Floats:
    """How far the rank sum left of every possible split is from its mean, in its deviations.

    ``ranks`` (series, n); the result (series, splits), the first after `SHORTEST` entries.
    """
    n = ranks.shape[1]
    left = np.arange(SHORTEST, n - SHORTEST + 1)
    sums = np.cumsum(ranks, axis=1)[:, left - 1]
    deviation = np.sqrt(left * (n - left) * (n + 1) / 12)
    distance: Floats = np.abs(sums - left * (n + 1) / 2) / deviation
    return distance
