"""`roofline`: a step is as fast as the slower of its arithmetic and its memory traffic allows.

Williams, Waterman, Patterson (CACM 2009), applied part by part: the linear layers, then attention
group by group; each part waits for memory or for arithmetic, and the parts follow one another.
All constants come from the hardware sheet; none is fitted.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np

from sim.budget import Budget
from sim.compiled import mypyc_attr
from sim.hardware import HardwareSheet
from sim.model import LayerGroup
from sim.step import Count, Reads, Work
from sim.timing.base import DecodeClock, Seconds, TimeModel
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
        self._has_experts = model.has_experts
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
        self.head_flops = model.head_flops_per_token
        self.body_flops = model.linear_flops_per_token - self.head_flops
        self.overhead = hardware.step_overhead + len(model.layers) * hardware.layer_overhead
        self._attention = [
            _Attention(self, group, cell_bytes or group.state_bytes)
            for group, cell_bytes in zip(self.groups, self.cell_bytes, strict=True)
        ]
        self._is_plain = type(self).seconds is Roofline.seconds
        self._clocks: dict[int, _RooflineClock] = {}
        self._weights: dict[int, float] = {}
        """Bytes of weights that are read, by the tokens of a pass if they choose experts."""

    @classmethod
    def of(cls, budget: Budget, hardware: HardwareSheet, path: str) -> Self:
        """From the sheet alone; takes no path."""
        if path:
            raise InputError(f"roofline:{path}: the roofline model takes no file, only hardware")
        return cls(budget, hardware)

    def seconds(self, work: Work) -> Seconds:
        """Overhead, linear layers, attention of every group, copies; in this order."""
        total: Seconds = work.passes * self.overhead + self.linear(work)
        for group, reads in enumerate(work.reads):
            total = total + self._attention[group].of(reads)
        return total + 2 * (work.copy_bytes + work.shift_bytes) / self.copy_bandwidth

    def linear(self, work: Work) -> Any:
        """Seconds of the linear layers: the slower of reading their weights and of computing."""
        flops = work.tokens * self.body_flops + work.sequences * self.head_flops
        weights = work.passes * self._weight_bytes(work.tokens)
        memory, arithmetic = weights / self.bandwidth, flops / self.linear_rate
        if isinstance(memory, float) and isinstance(arithmetic, float):
            return memory if memory >= arithmetic else arithmetic
        return np.maximum(memory, arithmetic)

    def _weight_bytes(self, tokens: Count) -> Any:
        if isinstance(tokens, np.ndarray):
            # One by one: array powers (experts visited) may differ from scalar ones in a bit.
            return np.array([self._weight_bytes(int(n)) for n in tokens])
        if not self._has_experts:
            tokens = 1
        found = self._weights.get(tokens)
        if found is None:
            found = self._weights[tokens] = self.model.read_weight_bytes(tokens)
        return found

    def decode_clock(self, sequences: int) -> DecodeClock | None:
        """The same sums as `seconds`, term by term, with what does not change left out.

        None for a subclass with a `seconds` of its own, which these sums know nothing of.
        """
        if not self._is_plain:
            return None
        clock = self._clocks.get(sequences)
        if clock is None:
            start = 1 * self.overhead + self.linear(Work(sequences, sequences, ()))
            clock = self._clocks[sequences] = _RooflineClock(start, self._attention)
        return clock

    def swap_seconds(self, n_bytes: int, to_host: bool) -> float:
        """Latency of the link and its bandwidth in that direction."""
        hardware = self.hardware
        bandwidth = hardware.to_host_bandwidth if to_host else hardware.to_device_bandwidth
        return hardware.link_latency + n_bytes / bandwidth


class _Attention:
    """Attention of one layer group: the slower of loading its cells and of computing its pairs.

    A group of recurrent layers loads and stores states and has neither pairs nor tables.
    """

    def __init__(self, roofline: Roofline, group: LayerGroup, cell_bytes: int) -> None:
        self._cell_bytes = cell_bytes
        self._flops: int = group.attending * group.pair_flops
        self._bandwidth: float = roofline.bandwidth
        self._rate: float = roofline.attention_rate
        self._overhead: float = roofline.hardware.gather_overhead

    def of(self, reads: Reads) -> Any:
        """Seconds, or an array of them."""
        cells, pairs, gathers = reads
        if isinstance(cells, int) and isinstance(pairs, int) and isinstance(gathers, int):
            return self.seconds(cells, pairs, gathers)
        memory = cells * self._cell_bytes / self._bandwidth
        arithmetic = pairs * self._flops / self._rate
        blocks = gathers * TABLE_BLOCK / np.maximum(cells, 1)
        return np.maximum(memory, arithmetic) * (1.0 + self._overhead * blocks)

    def seconds(self, cells: int, pairs: int, gathers: int) -> float:
        """The same of plain numbers."""
        loading = self.loading(cells, pairs, gathers)
        if loading >= 0:
            return loading
        return pairs * self._flops / self._rate * self._following(cells, gathers)

    def loading(self, cells: int, pairs: int, gathers: int) -> float:
        """The same where it waits for memory, else a negative number."""
        memory = cells * self._cell_bytes / self._bandwidth
        if pairs * self._flops / self._rate > memory:
            return -1.0
        return memory * self._following(cells, gathers)

    def _following(self, cells: int, gathers: int) -> float:
        """By how much block tables slow it down."""
        return 1.0 + self._overhead * (gathers * TABLE_BLOCK / (cells if cells >= 1 else 1))


class _RooflineClock(DecodeClock):
    """Decode steps of one number of sequences, whose linear layers take ``start`` seconds."""

    def __init__(self, start: float, attention: list[_Attention]) -> None:
        super().__init__(start)
        self._attention = attention

    def attention(self, group: int, cells: int, pairs: int, gathers: int) -> float:
        """Negative where attention waits for arithmetic."""
        return self._attention[group].loading(cells, pairs, gathers)
