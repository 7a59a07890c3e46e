"""The table of a sweep's searches for the highest rate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from reports.metrics import NO_VALUE, three_digits
from reports.seeds import spread_of
from reports.sweep import Sweep

RATE = "capacity (req/s)"
"""What the rates are called in tables and pictures."""

NOTE = (
    "Highest rate (requests a second) at which at least {share:g} % of all requests meet their "
    "objectives, by bisection between {low:g} and {high:g} to within {tolerance:g} %."
)


@dataclass(frozen=True)
class CapacityRow:
    """labels: one an axis. text: median and interval over seeds, with < or ≥ at the bounds."""

    labels: tuple[str, ...]
    text: str
    median: float | None


def capacity_rows(sweep: Sweep) -> list[CapacityRow]:
    """One row a combination of labels; empty where the study searches nothing."""
    found: dict[tuple[str, ...], list[float]] = {}
    for entry, result in _results_of(sweep):
        rates = found.setdefault(tuple(entry["labels"]), [])
        if result is not None:
            rates.append(_rate_of(result))
    return [_row(labels, rates, sweep) for labels, rates in found.items()]


def rates_of(sweep: Sweep) -> dict[tuple[str, ...], list[float]]:
    """Found rates by labels, a search that met its bound counting as one that found the bound."""
    wanted, found = sweep.index["capacity"], dict[tuple[str, ...], list[float]]()
    for entry, result in _results_of(sweep):
        if result is not None:
            rate = min(max(_rate_of(result), wanted["low"]), wanted["high"])
            found.setdefault(tuple(entry["labels"]), []).append(rate)
    return found


def _results_of(sweep: Sweep) -> list[tuple[dict[str, Any], dict[str, Any] | None]]:
    return [(entry, sweep.search_of(entry)) for entry in sweep.index["searches"]]


def _rate_of(result: dict[str, object]) -> float:
    """Ordered like capacities: 0 below the lowest rate, infinite from the highest on."""
    if result["verdict"] == "found":
        return float(str(result["rate"]))
    return 0.0 if result["verdict"] == "not even the lowest" else np.inf


def _row(labels: tuple[str, ...], rates: list[float], sweep: Sweep) -> CapacityRow:
    wanted = sweep.index["capacity"]

    def text(rate: float) -> str:
        if rate == 0:
            return f"< {wanted['low']:g}"
        return f"≥ {wanted['high']:g}" if np.isinf(rate) else three_digits(rate)

    # An even number of seeds has two middle values; the lower is a rate that was tried.
    middle = sorted(rates)[(len(rates) - 1) // 2] if rates else None
    beyond = 2 * wanted["high"]
    spread = spread_of([min(rate, beyond) for rate in rates])
    if middle is None or spread is None:
        return CapacityRow(labels, NO_VALUE, None)
    ends = [np.inf if end == beyond else end for end in (spread.low, spread.high)]
    shown = [text(middle), *(text(end) for end in ends)]
    interval = "" if len(set(shown)) == 1 else f" [{shown[1]}, {shown[2]}]"
    return CapacityRow(labels, f"{shown[0]}{interval}", middle if np.isfinite(middle) else None)


def capacity_note(sweep: Sweep) -> str:
    """What the search asked for."""
    wanted = sweep.index["capacity"]
    return NOTE.format(
        share=100 * wanted["share"],
        low=wanted["low"],
        high=wanted["high"],
        tolerance=100 * wanted["tolerance"],
    )
