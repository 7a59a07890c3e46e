"""llama.cpp's sequence operations on block tables: those that block tables can do."""

from __future__ import annotations

from dataclasses import dataclass

from sim.compiled import mypyc_attr
from sim.paging.manager import BlockManager
from sim.paging.occupancy import Totals
from sim.policies.base import Policy
from sim.sequence import Sequence
from workloads.request import PrefixPath

_FIRST_PRIVATE = -1 << 26
"""Below all private branches that are made from sequence ids."""


@dataclass(frozen=True)
class SavedSequence:
    """A sequence as `save` leaves it: who it was, and how far it had come."""

    seq: Sequence
    computed: int
    path: PrefixPath


@mypyc_attr(allow_interpreted_subclasses=True)
class PagedOperations(Policy):
    """Tails can be removed and whole sequences copied; positions cannot be changed."""

    manager: BlockManager
    _seqs: dict[int, Sequence]
    _totals: Totals
    _continued: int
    """Prefix identities that were made for what follows a tail that is gone."""

    def seq_rm(self, seq: int, p0: int, p1: int) -> bool:
        """Remove a tail, if no window has moved beyond it; False for anything else.

        The sequence then has ``p0`` tokens, and what follows them is its own.
        """
        owner, start = self._seqs.get(seq), max(p0, 0)
        if owner is None or start >= owner.computed or 0 <= p1 <= start:
            return True
        if 0 <= p1 < owner.computed:
            return False
        if start == 0:
            self.release(owner)
            owner.computed = 0
            return True
        holding, groups = self.manager.holdings[seq], self.manager.groups
        for group, table in zip(groups, holding.tables, strict=True):
            if group.spec.kind == "recurrent" or table.live * group.size > group.skipped(start):
                return False
        self._totals.left(owner, holding)
        self.manager.cut(seq, start)
        owner.tokens = owner.computed = start
        owner.path = holding.path = self._diverging(owner, start)
        holding.public = min(holding.public, start)
        self._totals.came(owner, holding)
        return True

    def _diverging(self, seq: Sequence, start: int) -> PrefixPath:
        """The path of ``seq`` up to ``start``, and then something that nobody else has."""
        kept = []
        for branch, end in seq.path:
            kept.append((branch, min(end, start)))
            if end >= start:
                break
        self._continued += 1
        return (*kept, (_FIRST_PRIVATE - self._continued, max(seq.limit, start + 1)))

    def seq_cp(self, src: int, dst: int, p0: int, p1: int) -> None:
        """``dst``, which holds nothing yet, shares all blocks of ``src``; no part of it can be."""
        parent = self._seqs.get(src)
        if parent is None or src == dst:
            return
        if p0 > 0 or 0 <= p1 < parent.computed or dst in self._seqs:
            self._refuse(f"seq_cp({src}, {dst}, {p0}, {p1})")
        child = Sequence(dst, parent.request)
        child.tokens, child.computed = parent.tokens, parent.computed
        child.path = self._diverging(parent, parent.computed)
        self.fork(parent, child)

    def seq_keep(self, seq: int) -> None:
        """Forget all other sequences."""
        for other in [other for other in self._seqs.values() if other.id != seq]:
            self.release(other)
            other.computed = 0

    def clear(self) -> None:
        """Forget all sequences and the prefix cache."""
        self.seq_keep(-1)
        self.manager.clear()

    def seq_pos_min(self, seq: int) -> int:
        """The first position that all groups still have, -1 if there is none."""
        if seq not in self._seqs:
            return -1
        tables = self.manager.holdings[seq].tables
        return max(
            table.live * group.size
            for group, table in zip(self.manager.groups, tables, strict=True)
        )

    def seq_pos_max(self, seq: int) -> int:
        """The last position, -1 if there is none."""
        return self._seqs[seq].computed - 1 if seq in self._seqs else -1

    def save(self, seq: int) -> SavedSequence:
        """What `restore` needs; `KeyError` if ``seq`` holds nothing."""
        owner = self._seqs[seq]
        return SavedSequence(owner, owner.computed, owner.path)

    def restore(self, state: SavedSequence, seq: int) -> bool:
        """New blocks for a saved sequence, as ``seq``; False where there is no room."""
        if seq in self._seqs:
            self.release(self._seqs[seq])
        owner = state.seq if state.seq.id == seq else Sequence(seq, state.seq.request)
        owner.computed, owner.path = state.computed, state.path
        return self.swap_in(owner) is not None
