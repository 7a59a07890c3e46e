"""`table`: step times from a layerwise profile, added up over the layers of the model.

``table:DIR`` reads the profile that `sim.timing.profile` describes and interpolates linearly in
tokens and lengths. What a step costs beside its kernels is `sim.timing.vllm_costs`.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from math import sqrt
from typing import Any, Self

import numpy as np

from sim.budget import Budget
from sim.hardware import HardwareSheet
from sim.step import Work
from sim.timing.base import Seconds, TimeModel
from sim.timing.grid import Floats
from sim.timing.profile import Profile, read_profile
from sim.timing.split_kv import unsplit_from
from sim.timing.vllm_costs import VllmCosts
from workloads.errors import InputError


class ProfileRangeWarning(UserWarning):
    """A step lies outside of what was profiled, so its time is continued from there."""


class Table(TimeModel):
    """Kernels as profiled, the gaps between them, and the upload of the block table.

    Attention is that of vLLM's paged kernels over live tokens; cells that another policy makes a
    kernel scan in vain are not priced. Prompt chunks of one step count as one chunk with as many
    tokens and as many query-key pairs; where there is no such chunk (several short ones have
    fewer pairs than one of all their tokens), as the one chunk without a prefix that has the
    pairs. Decodes of unequal length count as the profiled batch of two lengths that has their
    mean, variance and greatest length.

    Between numbers of sequences for which another decode kernel runs nothing is interpolated
    (`sim.timing.split_kv`). With tensor parallelism the profile is that of one of the GPUs.
    """

    name = "table"
    divisible = False
    sees_prefills = True

    def __init__(
        self, budget: Budget, hardware: HardwareSheet, profile: Profile, costs: VllmCosts
    ) -> None:
        groups = budget.model.groups()
        kinds = [group.kind for group in groups]
        if kinds != ["full"]:
            raise InputError(
                f"table: {budget.model.name} has layers of the kinds {', '.join(kinds)}, "
                "a layerwise profile knows full attention only"
            )
        if any(layer.feed_forward and layer.feed_forward.experts for layer in budget.model.layers):
            raise InputError(
                f"table: {budget.model.name} has experts, a layerwise profile knows none"
            )
        unsplit = unsplit_from(hardware, groups[0], costs.ring.ranks, costs.graph_sizes)
        self.hardware = hardware
        self.profile = profile if unsplit is None else profile.with_other_kernel(unsplit)
        self.costs = costs
        self.layers = len(budget.model.layers)
        self.hidden, self.vocab = budget.model.hidden, budget.model.vocab
        self._warned = False

    @classmethod
    def of(cls, budget: Budget, hardware: HardwareSheet, path: str) -> Self:
        """From the profile in directory ``path``, for vLLM with the limits of ``budget``."""
        if not path:
            raise InputError("table: expected table:DIR, a directory with a layerwise profile")
        longest = min(budget.max_model_len, budget.model.max_context)
        costs = VllmCosts.of(budget.max_seqs, budget.max_batched_tokens, longest)
        return cls(budget, hardware, read_profile(path, len(budget.model.layers)), costs)

    def seconds(self, work: Work) -> Seconds:
        """Layers, head, attention, gaps, block table, exchange, copies; in this order."""
        work = _with_single_tokens_as_decodes(work)
        profile, costs, passes = self.profile, self.costs, work.passes
        tokens = int(work.tokens) / passes
        sequences = work.decodes + len(work.prefills)
        kernels = passes * profile.dense.at(costs.padded(tokens)) + profile.head.at(sequences)
        attention = self._attention(work)
        moved = passes * profile.kernels * costs.gap(tokens) + (
            sequences * costs.table_row / self.hardware.to_device_bandwidth
        )
        copies = self.hardware.memory_bandwidth * self.hardware.copy_efficiency
        if costs.ring.ranks > 1:
            moved = moved + passes * costs.exchanged(
                tokens, sequences / passes, self.layers, self.hidden, self.vocab
            )
        moved = moved + 2 * (work.copy_bytes + work.shift_bytes) / copies
        times = (kernels + self.layers * attention) / 1e6 + moved
        self._warn()
        return times if work.steps > 1 else float(times[0])

    def _attention(self, work: Work) -> Floats:
        """Microseconds of one layer, one number a step."""
        mixed, n = self.profile.mixed, work.decodes
        if not n:
            # Nobody's length: any that is on the axis.
            return mixed.at(*_as_one_chunk(work.prefills), 0, mixed.axes[-1][:1])
        context, squares, longest = (
            np.atleast_1d(np.asarray(count))
            for count in (work.decode_context, work.decode_squares, work.decode_longest)
        )
        # Lengths in the profile do not count the token that is being computed.
        mean = (context - n) / n
        variance = np.maximum((squares - 2 * context + n) / n - mean * mean, 0.0)
        chunk = _as_one_chunk(work.prefills) if work.prefills else ()
        grid = mixed if work.prefills else self.profile.decode
        alike = grid.at(*chunk, n, mean)
        skew = self.profile.mixed_skew if work.prefills else self.profile.decode_skew
        if n == 1 or skew is None:
            return alike
        top = (longest - 1).astype(np.float64)
        share = _share_of_long(mean, variance, top, n)
        alpha = skew.at(*chunk, n, share, top)
        return np.asarray(alike + alpha * (grid.at(*chunk, n, top) - alike))

    def _warn(self) -> None:
        if not self._warned and self.is_outside:
            self._warned = True
            warnings.warn(f"table: {'; '.join(self.outside)}", ProfileRangeWarning, stacklevel=3)

    @property
    def is_outside(self) -> bool:
        """Whether a step was asked that lies outside the profiled range."""
        return any(grid.is_outside for grid in self.profile.grids)

    @property
    def outside(self) -> list[str]:
        """A line for everything that was asked outside the profiled range so far."""
        return list(dict.fromkeys(line for grid in self.profile.grids for line in grid.outside))

    def swap_seconds(self, n_bytes: int, to_host: bool) -> float:
        """Latency of the link and its bandwidth in that direction."""
        hardware = self.hardware
        bandwidth = hardware.to_host_bandwidth if to_host else hardware.to_device_bandwidth
        return hardware.link_latency + n_bytes / bandwidth


def _with_single_tokens_as_decodes(work: Work) -> Work:
    """Where no sequence has more than one token, the decode kernel runs, whosever they are.

    So it is for the last token of a prompt (``GPUModelRunner._is_uniform_decode``, and
    ``max_seqlen_q`` in FlashAttention).
    """
    if not work.prefills or any(n > 1 for n, _ in work.prefills):
        return work
    lengths = [before + 1 for _, before in work.prefills]
    return replace(
        work,
        prefills=(),
        decodes=work.decodes + len(lengths),
        decode_context=work.decode_context + sum(lengths),
        decode_squares=work.decode_squares + sum(length * length for length in lengths),
        decode_longest=max(int(work.decode_longest), *lengths),
    )


def _as_one_chunk(prefills: tuple[tuple[int, int], ...]) -> tuple[float, float]:
    """Tokens and prefix of the one chunk that stands for several."""
    tokens = sum(n for n, _ in prefills)
    pairs = sum(n * (before + n / 2) for n, before in prefills)
    prefix = pairs / tokens - tokens / 2
    return (tokens, prefix) if prefix >= 0 else (sqrt(2 * pairs), 0.0)


def _share_of_long(mean: Floats, variance: Floats, top: Floats, n: int) -> Any:
    """Share of sequences of length ``top`` in the batch of two lengths with these moments."""
    far = top - mean
    spread = variance + far * far
    share = variance / np.where(spread > 0, spread, 1.0)
    return np.maximum(share, 1 / n)
