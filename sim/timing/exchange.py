"""What devices that share a model's matrices tell each other, and how long it takes."""

from __future__ import annotations

from typing import Any, Self

from sim.budget import Budget
from sim.hardware import HardwareSheet
from sim.sharding import all_reduces_of
from sim.step import Work
from sim.timing.base import Seconds, TimeModel
from sim.timing.roofline import Roofline
from workloads.errors import InputError

_ELEMENT_BYTES = 2
"""Activations and logits are f16 or bf16."""


class Exchange:
    """All-reduces of activations and the all-gather of logits, one after the other.

    A ring over n devices sends ``2 (n - 1) / n`` of the data over every link, the least that any
    all-reduce can (Patarasuk and Yuan 2009); an all-gather sends half of that. Each waits for the
    sheet's latency besides.
    """

    def __init__(self, budget: Budget, hardware: HardwareSheet) -> None:
        """Raises `InputError` where the sheet knows of no link between devices."""
        n, model = budget.devices, budget.model
        if hardware.interconnect_bandwidth is None:
            raise InputError(
                f"tensor_parallel {n}: hardware {hardware.name!r} states no interconnect_bandwidth"
            )
        reductions = all_reduces_of(model)
        share = (n - 1) / n * _ELEMENT_BYTES / hardware.interconnect_bandwidth
        self._per_pass = (reductions + 1) * hardware.interconnect_latency
        self._per_token = 2 * share * reductions * model.hidden
        self._per_sequence = share * model.vocab * n

    def seconds(self, work: Work) -> Any:
        """Of one step, or of every step where the work is a decode run."""
        sent = work.tokens * self._per_token + work.sequences * self._per_sequence
        return work.passes * self._per_pass + sent


class TensorParallel(TimeModel):
    """Any time model of one device's part of the model, and what the devices tell each other."""

    def __init__(self, part: TimeModel, exchange: Exchange) -> None:
        self.part = part
        self.exchange = exchange
        self.sees_prefills = part.sees_prefills  # type: ignore[misc]

    @classmethod
    def of(cls, budget: Budget, hardware: HardwareSheet, path: str) -> Self:
        """Over the roofline; takes no path."""
        return cls(Roofline.of(budget, hardware, path), Exchange(budget, hardware))

    def seconds(self, work: Work) -> Seconds:
        """The part's time, then the exchange."""
        return self.part.seconds(work) + self.exchange.seconds(work)

    def swap_seconds(self, n_bytes: int, to_host: bool) -> float:
        """Every device swaps its own bytes over its own link."""
        return self.part.swap_seconds(n_bytes, to_host)
