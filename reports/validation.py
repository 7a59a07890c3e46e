"""A measured run and its simulation side by side: latencies, and what was going on when."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

Floats = NDArray[np.float64]

METRICS = {"ttft": "TTFT", "tpot": "TPOT", "e2e": "E2E"}
"""Names of the latencies that are compared, and how they are printed."""
STATISTICS = {"mean": "mean", "median": "median", "p90": "P90", "p95": "P95", "p99": "P99"}
"""Statistics of each latency, and how they are printed."""


@dataclass(frozen=True)
class RunTimes:
    """When every request of a run was where: seconds, one number a request in one order.

    queued: when the engine took it in, between two steps. scheduled: its first step. prompts,
    outputs: tokens. capacity: tokens that the KV memory holds. reported: seconds, and the share of
    the KV memory in use at each of them as the engine said it; None where it did not.
    """

    arrival: Floats
    queued: Floats
    scheduled: Floats
    first_token: Floats
    last_token: Floats
    prompts: NDArray[np.int64]
    outputs: NDArray[np.int64]
    capacity: int
    reported: tuple[Floats, Floats] | None = None

    @property
    def ttft(self) -> Floats:
        """Time to the first token since the engine took the request in."""
        return self.first_token - self.queued

    @property
    def ttft_from_arrival(self) -> Floats:
        """Time to the first token since the request came."""
        return self.first_token - self.arrival

    @property
    def tpot(self) -> Floats:
        """Mean time between two tokens, of requests with more than one."""
        several = self.outputs > 1
        return (self.last_token - self.first_token)[several] / (self.outputs[several] - 1)

    @property
    def e2e(self) -> Floats:
        """Time to the last token since the engine took the request in."""
        return self.last_token - self.queued

    @property
    def end(self) -> float:
        """When the last token came."""
        return float(self.last_token.max())

    @property
    def output_rate(self) -> float:
        """Output tokens a second from the first arrival to the last token."""
        return float(self.outputs.sum()) / (self.end - float(self.arrival.min()))

    @property
    def total_rate(self) -> float:
        """Prompt and output tokens a second from the first arrival to the last token."""
        return self.output_rate * float(1 + self.prompts.sum() / self.outputs.sum())

    def running(self, at: Floats) -> Floats:
        """Requests between their first step and their last token, at some times."""
        return _started(self.scheduled, at) - _started(self.last_token, at)

    def waiting(self, at: Floats) -> Floats:
        """Requests that the engine knows of and that have not been scheduled."""
        return _started(self.queued, at) - _started(self.scheduled, at)

    def generated(self, at: Floats) -> Floats:
        """Output tokens so far, those of a request evenly spaced."""
        total = np.zeros_like(at)
        for first, last, n in zip(self.first_token, self.last_token, self.outputs, strict=True):
            total += np.where(at >= first, 1 + (n - 1) * _share(first, last, at), 0)
        return total

    def occupancy(self, at: Floats) -> Floats:
        """Share of the KV memory in use, as reported, else what the tokens of requests would take.

        That leaves sharing and preemption out, lets the prompt come evenly between the first step
        and the first token, and cannot say more than that all is full.
        """
        if self.reported is not None:
            return np.interp(at, *self.reported, left=0.0, right=0.0)
        total = np.zeros_like(at)
        for began, first, last, prompt, n in zip(
            self.scheduled, self.first_token, self.last_token, self.prompts, self.outputs,
            strict=True,
        ):  # fmt: skip
            held = prompt * _share(began, first, at) + (n - 1) * _share(first, last, at)
            total += np.where((at >= began) & (at < last), held, 0)
        return np.minimum(total / self.capacity, 1.0)


def _started(moments: Floats, at: Floats) -> Floats:
    return np.searchsorted(np.sort(moments), at, side="right").astype(np.float64)


def _share(start: float, end: float, at: Floats) -> Floats:
    """How much of a stretch is over."""
    return np.clip((at - start) / max(end - start, 1e-12), 0.0, 1.0)


def statistics_of(values: Floats) -> dict[str, float]:
    """Mean and percentiles (linearly interpolated), by the names of `STATISTICS`."""
    percentiles = np.percentile(values, [50, 90, 95, 99]).tolist()
    return dict(zip(STATISTICS, [float(values.mean()), *percentiles], strict=True))


def differences(measured: RunTimes, simulated: RunTimes) -> dict[str, Any]:
    """By metric and statistic: measured and simulated seconds, and their difference in per cent.

    A metric that no request has (TPOT of single tokens) is left out.
    """
    found = {}
    for metric in METRICS:
        real, model = getattr(measured, metric), getattr(simulated, metric)
        if len(real):
            found[metric] = _compared(statistics_of(real), statistics_of(model))
    return found


def _compared(real: dict[str, float], model: dict[str, float]) -> dict[str, Any]:
    return {
        name: {
            "measured": real[name],
            "simulated": model[name],
            "diff_percent": 100 * (model[name] / real[name] - 1) if real[name] else 0.0,
        }
        for name in STATISTICS
    }


def largest_difference(found: dict[str, Any]) -> float:
    """The largest of all differences, in per cent, without its sign."""
    return max(abs(each["diff_percent"]) for row in found.values() for each in row.values())


def latency_table(measured: RunTimes, simulated: RunTimes) -> Table:
    """Latencies in milliseconds; TTFT from the arrival too."""
    table = Table(title="Latency (ms)")
    for name in ("", "", "measured", "simulated", "difference"):
        table.add_column(name, justify="right" if name else "left")
    from_arrival = _compared(
        statistics_of(measured.ttft_from_arrival), statistics_of(simulated.ttft_from_arrival)
    )
    rows = differences(measured, simulated) | {"arrival": from_arrival}
    for metric, row in rows.items():
        table.add_section()
        label = METRICS.get(metric, "TTFT from arrival")
        for index, (name, each) in enumerate(row.items()):
            table.add_row(
                "" if index else label,
                STATISTICS[name],
                f"{each['measured'] * 1e3:,.1f}",
                f"{each['simulated'] * 1e3:,.1f}",
                f"{each['diff_percent']:+.2f} %",
            )
    return table


def load_table(measured: RunTimes, simulated: RunTimes) -> Table:
    """Throughput and KV occupancy."""
    table = Table(title="Throughput and KV memory")
    for name in ("", "measured", "simulated", "difference"):
        table.add_column(name, justify="right" if name else "left")
    for label, real, model in zip(
        ("output tokens/s", "all tokens/s", "duration (s)", "KV mean (%)", "KV peak (%)"),
        _load_of(measured),
        _load_of(simulated),
        strict=True,
    ):
        table.add_row(label, f"{real:,.2f}", f"{model:,.2f}", f"{100 * (model / real - 1):+.2f} %")
    return table


def _load_of(times: RunTimes) -> list[float]:
    shares = times.occupancy(np.linspace(0.0, times.end, 1000))
    return [
        times.output_rate,
        times.total_rate,
        times.end,
        100 * float(shares.mean()),
        100 * float(shares.max()),
    ]
