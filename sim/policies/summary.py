"""`summary`: a fixed number of cells a sequence, whose old tokens become a few centroids. Lossy.

The literal reading of "a recent window and a compressed summary chosen by Wasserstein distance":
the first tokens (attention sinks) and the last ones are kept as they are; when the window is full,
its older half joins ``centroids`` mass-weighted atoms. The k atoms nearest to a cloud of keys in
2-Wasserstein distance are the centres of its k-means clusters (Pollard, 1982; Graf and Luschgy,
2000), so that is what they are; `backends.summary` computes them and what they cost in accuracy.

Positions from ``sinks`` on live in a ring of ``window`` cells, behind the sinks and the centroids.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sim.budget import Budget
from sim.decode_run import DecodeRun
from sim.errors import IntegrityError
from sim.owners import FREE, UNUSED
from sim.policies.base import HandedOver, Policy
from sim.policies.summary_reads import reads_of, reads_of_run
from sim.sequence import Sequence
from sim.step import Cells, Copy, Placement, Reads, Step
from sim.usage import Usage
from workloads.errors import InputError
from workloads.plugins import option


@dataclass(slots=True)
class Share:
    """The cells of one sequence: slot ``slot``, ``tokens`` computed, ``merged`` into centroids.

    final: cells that it will hold at most.
    """

    slot: int
    final: int
    tokens: int = 0
    merged: int = 0


class Summary(Policy):
    """Sinks and a recent window kept, older tokens as mass-weighted centroids. LOSSY.

    All layers get the same cells. Moving tokens to centroids is priced as reading and writing
    them; the arithmetic of the clustering is not priced.
    """

    name = "summary"
    lossy = "old tokens are replaced by centroids"

    @dataclass(frozen=True)
    class Options:
        """How the cells of a sequence are divided."""

        sinks: int = option(4, "first tokens kept as they are", low=0, high=1 << 20)
        window: int = option(512, "cells of the last tokens", low=2, high=1 << 24)
        centroids: int = option(128, "cells of all tokens between", low=1, high=1 << 24)

    options: Options

    def __init__(self, budget: Budget, options: Options | None = None) -> None:
        super().__init__(budget, options)
        chosen = self.options
        if any(group.kind == "recurrent" for group in self.groups):
            raise InputError(
                f"summary: {budget.model.name} has recurrent layers; expected attention"
            )
        if chosen.centroids > chosen.window // 2:
            raise InputError(
                f"summary.centroids: expected at most half of the window ({chosen.window // 2}), "
                f"as many as join them at a time, got {chosen.centroids}"
            )
        self.cell = sum(self.cell_bytes)
        self.size = chosen.sinks + chosen.centroids + chosen.window
        self.capacity = budget.bytes // self.cell
        slots = self.capacity // self.size
        if not slots:
            raise InputError(
                f"{budget.bytes} bytes of K/V memory hold no sequence of {self.size} cells of "
                f"{budget.model.name} ({self.cell} bytes each)"
            )
        self._free = list(range(slots - 1, -1, -1))
        self._slots = slots
        self._shares: dict[int, Share] = {}
        self._on_host: dict[int, Share] = {}
        self._live = self._reserved = self._internal = 0

    # Sizes.

    def held(self, share: Share) -> int:
        """Cells in use: what is kept as it is, and the centroids once there are any."""
        return share.tokens - share.merged + (self.options.centroids if share.merged else 0)

    def room(self, share: Share) -> int:
        """Tokens that fit before some have to be merged."""
        return self.options.sinks + self.options.window + share.merged - share.tokens

    def _final(self, seq: Sequence) -> int:
        kept = self.options.sinks + self.options.window
        return seq.limit if seq.limit <= kept else self.size

    # What the scheduler asks and does.

    def can_ever_hold(self, seq: Sequence) -> bool:
        """Always: the cells of a sequence do not grow with it."""
        del seq
        return True

    def chunk_of(self, seq: Sequence, computed: int, n: int) -> int:
        """No more at once than the half of the window that a merge empties."""
        del seq, computed
        return min(n, self.options.window // 2)

    def allocate(self, seq: Sequence, n: int, hit: int = 0) -> bool:
        """A slot at the first call; later ones merge the older half of a full window."""
        del hit
        share = self._shares.get(seq.id)
        if share is None:
            if not self._free:
                return False
            share = self._shares[seq.id] = Share(self._free.pop(), self._final(seq))
            self._count(share, 1)
        self._count(share, -1)
        if n > self.room(share):
            self._merge(share, max(n - self.room(share), self.options.window // 2))
        share.tokens += n
        self._count(share, 1)
        return True

    def _merge(self, share: Share, n: int) -> None:
        """The ``n`` oldest tokens of the window join the centroids.

        Which centroid a token joins depends on its key; for the clock any of them will do.
        """
        first = share.merged + self.options.sinks
        sources = self._cells(share, np.arange(first, first + n, dtype=np.int64))
        start = share.slot * self.size + self.options.sinks
        targets = np.resize(np.arange(start, start + self.options.centroids), n)
        for group, size in enumerate(self.cell_bytes):
            self._copies.append(Copy("summary", group, sources, targets, n * size))
        share.merged += n

    def _count(self, share: Share, sign: int) -> None:
        live, reserved, internal = self._parts_of(share)
        self._live += sign * live
        self._reserved += sign * reserved
        self._internal += sign * internal

    def _parts_of(self, share: Share) -> tuple[int, int, int]:
        """Cells of a slot that are live, reserved and never used."""
        held = self.held(share)
        return held, share.final - held, self.size - share.final

    def release(self, seq: Sequence) -> None:
        """Give the slot back, and what is on the host."""
        self._on_host.pop(seq.id, None)
        share = self._shares.pop(seq.id, None)
        if share is not None:
            self._count(share, -1)
            self._free.append(share.slot)

    def swap_out(self, seq: Sequence) -> int:
        """The centroids go to the host with what is kept as it is."""
        size, share = self.held_bytes(seq), self._shares[seq.id]
        self.release(seq)
        self._on_host[seq.id] = share
        return size

    def swap_in(self, seq: Sequence) -> int | None:
        """Any free slot will do."""
        if not self._free:
            return None
        share = self._shares[seq.id] = self._on_host.pop(seq.id)
        share.slot = self._free.pop()
        self._count(share, 1)
        return self.held_bytes(seq)

    def hand_over(self, seq: Sequence) -> HandedOver:
        """Kept tokens and centroids, as they are."""
        return HandedOver(replace(self._shares[seq.id]), self.held_bytes(seq))

    def take_over(self, seq: Sequence, handed: HandedOver) -> None:
        """They wait on the host, as if they had been swapped out here."""
        self._on_host[seq.id] = replace(handed.state, final=self._final(seq))

    def commit(self, step: Step) -> Placement:
        """Reads are those of the cells held, however long the sequences are."""
        held = [self.held(self._shares[run.seq.id]) for run in step.runs]
        return self.placed(step, reads_of(self.groups, step.runs, held))

    def plan_run(self, seqs: SequenceOf[Sequence], steps: int) -> DecodeRun | None:
        """Nothing but counters moves until a window is full."""
        shares = [self._shares[seq.id] for seq in seqs]
        steps = min(steps, min(self.room(share) for share in shares))
        return _SummaryRun(self, shares, steps) if steps > 0 else None

    # Questions.

    def usage(self) -> tuple[Usage, ...]:
        """One cache for all layers; cells that make no whole slot are of no use."""
        return self._usage_with(self._live, self._reserved, self._internal)

    def counted_usage(self) -> tuple[Usage, ...]:
        """From the slots in use."""
        counts = [self._parts_of(share) for share in self._shares.values()]
        return self._usage_with(*(sum(part) for part in zip((0, 0, 0), *counts, strict=True)))

    def _usage_with(self, live: int, reserved: int, internal: int) -> tuple[Usage, ...]:
        free = self.capacity - self.size * len(self._shares)
        rest = self.capacity - self.size * self._slots
        return (Usage(self.capacity, live, reserved, internal, free, rest, 0, self.cell),)

    def holders(self) -> Iterable[int]:
        """Ids of all sequences with a slot."""
        return self._shares.keys()

    def held_bytes(self, seq: Sequence) -> int:
        """Kept tokens and centroids."""
        return self.cell * self.held(self._shares[seq.id]) if seq.id in self._shares else 0

    def largest_free_run(self, cache: int = 0) -> int:
        """One slot, where one is free."""
        del cache
        return self.size if self._free else 0

    def _cells(self, share: Share, positions: Cells) -> Cells:
        sinks, window = self.options.sinks, self.options.window
        ring = sinks + self.options.centroids + (positions - sinks) % window
        cells: NDArray[np.int64] = share.slot * self.size + np.where(
            positions < sinks, positions, ring
        )
        return cells

    def cells_of(self, seq: Sequence, group: int = 0) -> tuple[Cells, Cells]:
        """Positions that are kept as they are: the sinks and the window."""
        del group
        share, sinks = self._shares[seq.id], self.options.sinks
        positions = np.concatenate(
            [
                np.arange(min(sinks, share.tokens), dtype=np.int64),
                np.arange(sinks + share.merged, share.tokens, dtype=np.int64),
            ]
        )
        return positions, self._cells(share, positions)

    def owners(self, cache: int = 0) -> Cells:
        """Kept tokens and centroids by sequence; UNUSED where a slot is not in use."""
        del cache
        owners = np.full(self.capacity, FREE, dtype=np.int64)
        for owner, share in self._shares.items():
            start = share.slot * self.size
            owners[start : start + self.size] = UNUSED
            if share.merged:
                middle = start + self.options.sinks
                owners[middle : middle + self.options.centroids] = owner
            kept = np.arange(share.tokens, dtype=np.int64)
            kept = kept[(kept < self.options.sinks) | (kept >= self.options.sinks + share.merged)]
            owners[self._cells(share, kept)] = owner
        return owners

    def check_integrity(self) -> None:
        """Every slot has one owner, and no window overflows."""
        super().check_integrity()
        slots = [share.slot for share in self._shares.values()] + self._free
        if sorted(slots) != list(range(self._slots)):
            raise IntegrityError(f"slots {sorted(slots)} of {self._slots}")
        for share in self._shares.values():
            if self.room(share) < 0 or not 0 <= self.held(share) <= share.final:
                raise IntegrityError(f"{share} holds {self.held(share)} cells")


class _SummaryRun(DecodeRun):
    def __init__(self, policy: Summary, shares: list[Share], steps: int) -> None:
        super().__init__(steps)
        self._policy = policy
        self._shares = shares

    def _foreseen_reads(self) -> tuple[Reads, ...]:
        policy, shares = self._policy, self._shares
        tokens = np.array([share.tokens for share in shares], dtype=np.int64)
        held = np.array([policy.held(share) for share in shares], dtype=np.int64)
        return reads_of_run(policy.groups, tokens, held, self.steps)

    def _foreseen_usage(self) -> tuple[Usage, ...]:
        grown = len(self._shares) * np.arange(1, self.steps + 1, dtype=np.int64)
        usage = self._policy.usage()[0]
        usage.live = usage.live + grown
        usage.reserved = usage.reserved - grown
        return (usage,)

    def _apply(self, steps: int) -> None:
        for share in self._shares:
            self._policy._count(share, -1)
            share.tokens += steps
            self._policy._count(share, 1)
