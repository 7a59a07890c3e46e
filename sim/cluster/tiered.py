"""`paged` with tiers below the device: what they have of a prefix is loaded, not computed."""

from __future__ import annotations

from sim.budget import Budget
from sim.cluster.tiers import Tiers
from sim.paging.coordinator import Hit
from sim.policies.paged import Paged
from sim.policies.paged_options import PagedOptions
from sim.sequence import Sequence
from workloads.errors import InputError


class TieredPaged(Paged):
    """Block tables that take over what the tiers have beyond the device's prefix cache.

    Blocks for it are taken like those for tokens that are computed, and can be found by others
    from then on.
    """

    def __init__(self, budget: Budget, options: PagedOptions, tiers: Tiers) -> None:
        super().__init__(budget, options)
        if [spec.kind for spec in self.layout.groups] != ["full"]:
            raise InputError(
                f"tiers: {budget.model.name} has layers that are not cached in full; "
                "expected a model of full attention"
            )
        if tiers.chunk % self.options.block_size:
            raise InputError(
                f"tiers: chunks of {tiers.chunk} tokens: expected a multiple of block_size "
                f"({self.options.block_size})"
            )
        self._tiers = tiers
        self._below: tuple[Sequence | None, int, int] = (None, 0, 0)
        """Who was looked up last, tokens that the device has, and those that the tiers reach."""

    def lookup(self, seq: Sequence) -> int:
        """Tokens that the device or a tier has; the last token of the sequence is left out."""
        device = super().lookup(seq)
        reached = self._tiers.reach(seq.path, seq.tokens) if seq.reads_cache else 0
        self._below = seq, device, min(max(device, reached), seq.tokens - 1)
        return self._below[2]

    def _hit_of(self, seq: Sequence, tokens: int) -> Hit:
        asked, device, reached = self._below
        return super()._hit_of(seq, device if asked is seq and tokens == reached else tokens)

    def allocate(self, seq: Sequence, n: int, hit: int = 0) -> bool:
        """As `Paged.allocate`; what is below the device is to be loaded before the step."""
        is_new = seq.id not in self.manager.holdings
        fits = super().allocate(seq, n, hit)
        if fits and is_new:
            device = self._below[1] if hit else 0
            self._tiers.take(seq, device, hit)
        return fits

    def stays_refused(self, seq: Sequence) -> bool:
        """Not if what is refused is a first chunk, which depends on what the tiers have."""
        return self.options.reserve_full_isl and super().stays_refused(seq)
