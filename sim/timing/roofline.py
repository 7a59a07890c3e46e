"""`roofline`: a step is as fast as the slower of its arithmetic and its memory traffic allows.

Williams, Waterman, Patterson (CACM 2009), applied part by part: the linear layers, then attention
group by group; each part waits for memory or for arithmetic, and the parts follow one another.
All constants come from the hardware sheet; none is fitted.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np

from sim.budget import Budget
from sim.clock import TICKS_PER_SECOND
from sim.compiled import mypyc_attr
from sim.hardware import HardwareSheet
from sim.model import LayerGroup
from sim.step import Count, Reads, Work
from sim.timing.base import DecodeClock, Loads, Seconds, TimeModel
from workloads.errors import InputError

TABLE_BLOCK = 16
"""Tokens of a block for which the sheet states its ``gather_overhead``."""


@mypyc_attr(allow_interpreted_subclasses=True)
class Roofline(TimeModel):
    """Step times from a hardware sheet.

    Linear layers: the weights are read once a pass, all tokens pass through them, and only
    tokens whose output is wanted pass through the head. Attention: the cells that the policy has
    scanned are read, all scored pairs are computed, and every block-table entry costs its share
    of the sheet's gather overhead. Recurrent layers: states are loaded and stored. Copies inside
    the cache read and write every byte; so does a K-shift.
    """

    name = "roofline"

    def __init__(self, budget: Budget, hardware: HardwareSheet) -> None:
        model = budget.model
        self.model = model
        self.hardware = hardware
        self.groups = model.groups()
        self.cell_bytes = tuple(
            budget.cell_bytes_of(group) // group.layers * group.attending for group in self.groups
        )
        """Bytes that attention loads of a cell, in all layers that attend to it."""
        self.bandwidth = hardware.memory_bandwidth * hardware.memory_efficiency
        self.copy_bandwidth = hardware.memory_bandwidth * hardware.copy_efficiency
        self.linear_rate = (
            hardware.flops_of(model.bytes_per_parameter) * hardware.compute_efficiency
        )
        self.attention_rate = hardware.flops * hardware.compute_efficiency
        self.body_flops = model.linear_flops_per_token - model.head_flops_per_token
        self.overhead = hardware.step_overhead + len(model.layers) * hardware.layer_overhead
        self._clocks: dict[int, _RooflineClock] = {}

    @classmethod
    def of(cls, budget: Budget, hardware: HardwareSheet, path: str) -> Self:
        """From the sheet alone; takes no path."""
        if path:
            raise InputError(f"roofline:{path}: the roofline model takes no file, only hardware")
        return cls(budget, hardware)

    def seconds(self, work: Work) -> Seconds:
        """Overhead, linear layers, attention of every group, copies; in this order."""
        total: Seconds = work.passes * self.overhead + self._linear(work)
        for group, cell_bytes, reads in zip(self.groups, self.cell_bytes, work.reads, strict=True):
            total = total + self._attention(group, cell_bytes, reads)
        return total + 2 * (work.copy_bytes + work.shift_bytes) / self.copy_bandwidth

    def _linear(self, work: Work) -> Any:
        flops = work.tokens * self.body_flops + work.sequences * self.model.head_flops_per_token
        weights = work.passes * self._weight_bytes(work)
        return _slower(weights / self.bandwidth, flops / self.linear_rate)

    def _weight_bytes(self, work: Work) -> Seconds:
        if isinstance(work.tokens, np.ndarray):
            # One by one: array powers (experts visited) may differ from scalar ones in a bit.
            return np.array([self.model.read_weight_bytes(int(n)) for n in work.tokens])
        return self.model.read_weight_bytes(work.tokens)

    def _attention(self, group: LayerGroup, cell_bytes: int, reads: Reads) -> Any:
        if group.kind == "recurrent":
            return reads.cells * group.state_bytes / self.bandwidth
        blocks = reads.gathers * TABLE_BLOCK / _slower(reads.cells, 1)
        memory = reads.cells * cell_bytes / self.bandwidth
        arithmetic = reads.pairs * (group.attending * group.pair_flops) / self.attention_rate
        return _slower(memory, arithmetic) * (1.0 + self.hardware.gather_overhead * blocks)

    def decode_clock(self, sequences: int) -> DecodeClock:
        """The same sums as `seconds`, term by term, with what does not change left out."""
        clock = self._clocks.get(sequences)
        if clock is None:
            start = 1 * self.overhead + self._linear(Work(sequences, sequences, ()))
            clock = self._clocks[sequences] = _RooflineClock(self, start)
        return clock

    def swap_seconds(self, n_bytes: int, to_host: bool) -> float:
        """Latency of the link and its bandwidth in that direction."""
        hardware = self.hardware
        bandwidth = hardware.to_host_bandwidth if to_host else hardware.to_device_bandwidth
        return hardware.link_latency + n_bytes / bandwidth


class _RooflineClock(DecodeClock):
    """Decode steps of one number of sequences, whose linear layers take ``start`` seconds."""

    def __init__(self, roofline: Roofline, start: float) -> None:
        self._start = start
        self._bandwidth: float = roofline.bandwidth
        self._rate: float = roofline.attention_rate
        self._overhead: float = roofline.hardware.gather_overhead
        self._groups: list[tuple[int, int]] = [
            (cell_bytes or group.state_bytes, group.attending * group.pair_flops)
            for group, cell_bytes in zip(roofline.groups, roofline.cell_bytes, strict=True)
        ]

    def ticks(self, loads: Loads) -> int:
        """Negative where any attention waits for arithmetic."""
        total = self._start
        for index, (cells, pairs, gathers) in enumerate(loads):
            cell_bytes, flops = self._groups[index]
            memory = cells * cell_bytes / self._bandwidth
            if pairs * flops / self._rate > memory:
                return -1
            blocks = gathers * TABLE_BLOCK / (cells if cells >= 1 else 1)
            total += memory * (1.0 + self._overhead * blocks)
        return round(total * TICKS_PER_SECOND)


def _slower(a: Seconds | Count, b: Seconds | Count) -> Any:
    """The larger of both, number by number; numbers stay numbers, for speed."""
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        return np.maximum(a, b)
    return a if a >= b else b
