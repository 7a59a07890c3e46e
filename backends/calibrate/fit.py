"""Fits the time of a kernel to what it does, without a library beyond NumPy.

Errors are relative: a point of 10 microseconds counts as much as one of 10 milliseconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from backends.calibrate.point import Sample
from sim.timing.fitted import Fitted
from sim.timing.terms import Form, form_of

Doubles = NDArray[np.float64]


def fitted(kernel: str, samples: Sequence[Sample]) -> Fitted:
    """The `Fitted` of ``kernel`` with the least squares of relative errors.

    Of two limits, the first counts for points below some ratio of the second to the first, and
    the second for those above. All places to divide the points are tried; the best one counts.
    """
    form = form_of(kernel)
    seconds = np.array([sample.seconds for sample in samples])
    sums = _columns(samples, form.sums)
    limits = _columns(samples, form.limits)
    best, least = Fitted(0.0, {}, {}), np.inf
    for counts in _divisions(limits):
        table = np.column_stack([np.ones(len(samples)), sums, limits * counts])
        found = _as_fitted(form, _least_squares(table / seconds[:, None]))
        error = float(np.square(_predicted(found, samples) / seconds - 1).sum())
        if error < least:
            best, least = found, error
    return best


def _divisions(limits: Doubles) -> Iterator[Doubles]:
    """For every way to divide the points: which limit counts for which (1 or 0)."""
    if limits.shape[1] < 2:
        yield np.ones_like(limits)
        return
    ratio = limits[:, 1] / limits[:, 0]
    for border in [-np.inf, *np.unique(ratio).tolist()]:
        is_first = ratio <= border
        yield np.column_stack([is_first, ~is_first]).astype(np.float64)


def errors(model: Fitted, samples: Sequence[Sample]) -> Doubles:
    """Relative errors, predicted / measured - 1."""
    return _predicted(model, samples) / np.array([sample.seconds for sample in samples]) - 1


def _predicted(model: Fitted, samples: Sequence[Sample]) -> Doubles:
    return np.array([float(model.seconds(sample.terms)) for sample in samples])


def _columns(samples: Sequence[Sample], names: Sequence[str]) -> Doubles:
    rows = [[float(sample.terms[name]) for name in names] for sample in samples]
    return np.array(rows, dtype=np.float64).reshape(len(samples), len(names))


def _as_fitted(form: Form, costs: Doubles) -> Fitted:
    values = iter(costs.tolist())
    fixed = next(values)
    return Fitted(
        fixed,
        dict(zip(form.sums, values, strict=False)),
        dict(zip(form.limits, values, strict=False)),
    )


def _least_squares(table: Doubles) -> Doubles:
    """Costs, none negative, with ``table @ costs`` nearest to ones (Lawson and Hanson, ch. 23).

    Columns are scaled to the same size first, since bytes and sequences differ by powers of ten.
    """
    size = np.linalg.norm(table, axis=0)
    scaled = table / np.where(size > 0, size, 1)
    target = np.ones(len(table))
    costs = np.zeros(table.shape[1])
    free = np.zeros(table.shape[1], dtype=bool)
    for _ in range(3 * table.shape[1]):
        gradient = scaled.T @ (target - scaled @ costs)
        gradient[free] = -np.inf
        enters = int(gradient.argmax())
        if gradient[enters] <= 1e-12:
            break
        free[enters] = True
        while True:
            trial = np.zeros_like(costs)
            trial[free] = np.linalg.lstsq(scaled[:, free], target, rcond=None)[0]
            if (trial[free] > 0).all():
                break
            leaving = free & (trial <= 0)
            step = np.min(costs[leaving] / (costs[leaving] - trial[leaving]))
            costs = costs + step * (trial - costs)
            free &= costs > 1e-15
            costs[~free] = 0
        costs = trial
    return np.where(size > 0, costs / np.where(size > 0, size, 1), 0.0)
