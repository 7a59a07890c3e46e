"""`none`: no cache at all; every step computes the whole sequence again (O(n^2) in its length)."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence as SequenceOf
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.budget import Budget
from sim.decode_run import DecodeRun
from sim.policies.base import Policy
from sim.reads import exact_reads, pairs_before
from sim.sequence import Sequence
from sim.step import Count, Placement, Reads, Run, Step
from sim.usage import Usage


class NoCache(Policy):
    """The baseline: nothing is kept, so nothing can run out, and everything is computed again.

    A prompt that is cut into chunks computes its earlier chunks again with each of them. The
    scheduler's token budget counts new tokens only.
    """

    name = "none"

    def __init__(self, budget: Budget, options: Any = None) -> None:
        super().__init__(budget, options)
        self._running: set[int] = set()

    def can_ever_hold(self, seq: Sequence) -> bool:
        """Always: there is nothing to hold."""
        return True

    def allocate(self, seq: Sequence, n: int, hit: int = 0) -> bool:
        """Always possible."""
        self._running.add(seq.id)
        return True

    def release(self, seq: Sequence) -> None:
        """Forget that ``seq`` ran."""
        self._running.discard(seq.id)

    def commit(self, step: Step) -> Placement:
        """Every run starts at position 0 again, every state as a new one."""
        whole = [Run(run.seq, 0, run.start + run.n) for run in step.runs]
        placement = self.placed(step, exact_reads(self.groups, whole))
        placement.runs = whole
        return placement

    def speculate(self, tokens: int, lookahead: int = 0) -> None:
        """Drafts are computed again like all else."""

    def take_back(self, seq: Sequence, n: int) -> None:
        """Nothing is there to be taken back."""

    def plan_run(self, seqs: SequenceOf[Sequence], steps: int) -> DecodeRun:
        """Steps of growing length; there is no limit to them."""
        return _Recomputation(self, np.array([seq.computed for seq in seqs]), steps)

    def usage(self) -> tuple[Usage, ...]:
        """Nothing of nothing: the policy uses no K/V memory."""
        return (Usage(0, 0, 0, 0, 0, 0, 0, sum(self.cell_bytes)),)

    def holders(self) -> Iterable[int]:
        """Nobody holds anything."""
        return ()

    def swap_out(self, seq: Sequence) -> int:
        """There is nothing to carry to the host."""
        self.release(seq)
        return 0


class _Recomputation(DecodeRun):
    def __init__(self, policy: NoCache, lengths: NDArray[np.int64], steps: int) -> None:
        self._after = lengths[:, None] + np.arange(1, steps + 1)
        super().__init__(steps, tokens=self._after.sum(axis=0))
        self._policy = policy

    def _foreseen_reads(self) -> tuple[Reads, ...]:
        tokens: Count = self._after.sum(axis=0)
        return tuple(
            Reads(
                tokens if group.kind in ("full", "swa", "chunked") else len(self._after),
                pairs_before(group, self._after).sum(axis=0),
                0,
            )
            for group in self._policy.groups
        )

    def _foreseen_usage(self) -> tuple[Usage, ...]:
        return self._policy.usage()

    def _apply(self, steps: int) -> None:
        pass
