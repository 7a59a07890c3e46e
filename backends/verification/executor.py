"""Carries out what a policy decided, on real rows.

Order of a step, which is the order in which the policy decided: rows that leave for the host and
come back, copies, shifts, then all new rows are written, then attention reads.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.arrays import Backend
from backends.attention import attend
from backends.kernel_store import store_of
from backends.layouts import Held, Layout
from backends.shape import GroupShape, shape_of
from backends.store import KVStore
from backends.verification.content import Content, Identities
from backends.verification.layout_of import layout_of
from backends.verification.swaps import Watched
from sim.errors import IntegrityError
from sim.policies.base import Policy
from sim.sequence import Sequence
from sim.step import Copy, Placement, Run, Shift


@dataclass(frozen=True)
class Group:
    """One attention group. index: of the policy's groups. store: where its rows live."""

    index: int
    shape: GroupShape
    content: Content
    store: KVStore
    layout: Layout


@dataclass(frozen=True)
class Asked:
    """The queries of one run in one group.

    positions: as the policy counts them. held: positions that the sequence has rows for; cells:
    where.
    """

    seq: Sequence
    tokens: Identities
    positions: NDArray[np.int64]
    held: NDArray[np.int64]
    cells: NDArray[np.int64]


class Executor:
    """Stores for all attention groups of a policy, and the operations on them.

    watched: the policy to give to the scheduler. copied, shifted: cells so far.
    """

    def __init__(
        self, policy: Policy, backend: Backend, seed: int = 0, v_transposed: bool = False
    ) -> None:
        """Raises `InputError` where the model has no K and V rows that could be stored."""
        self.policy = policy
        self.backend = backend
        self._v_transposed = v_transposed
        self.is_scratch = all(not part.capacity for part in policy.usage())
        self.groups = self._lay_out(seed)
        stores = {} if self.is_scratch else {group.index: group.store for group in self.groups}
        self.watched = Watched(policy, stores)
        self.copied = self.shifted = 0

    def _lay_out(self, seed: int) -> list[Group]:
        policy = self.policy
        stores: dict[int, KVStore] = {}
        groups = []
        for index, layers in enumerate(policy.groups):
            if layers.kind == "recurrent":
                continue
            shape = shape_of(layers, policy.budget.model)
            cache = policy.cache_of(index)
            store = stores.get(cache)
            if store is None or not self._shares_cells(cache):
                store = stores[cache] = self._store(cache, shape)
            elif store.row != shape.row:
                raise IntegrityError("groups that share cells have rows of different sizes")
            groups.append(
                Group(index, shape, Content(shape, index, seed), store, layout_of(policy, index))
            )
        return groups

    def _store(self, cache: int, shape: GroupShape) -> KVStore:
        budget = self.policy.budget
        cells = 0 if self.is_scratch else len(self.policy.owners(cache))
        types = budget.kv_type_k, budget.kv_type_v
        return store_of(self.backend, cells, shape.row, *types, v_transposed=self._v_transposed)

    def _shares_cells(self, cache: int) -> bool:
        """Whether a cell of the cache serves one of its groups at a time, not all of them."""
        policy = self.policy
        served = [i for i in range(len(policy.groups)) if policy.cache_of(i) == cache]
        return policy.usage()[cache].cell_bytes < sum(policy.cell_bytes[i] for i in served)

    # Work that is owed.

    def prepare(self, placement: Placement) -> None:
        """Swaps, copies and shifts of a step, in the order in which they were decided."""
        done = 0
        for owed, swap in self.watched.take():
            self._copy(placement.copies[done:owed])
            done = max(done, owed)
            swap()
        self._copy(placement.copies[done:])
        for shift in placement.shifts:
            self._shift(shift)

    def _copy(self, copies: Iterable[Copy]) -> None:
        for copy in copies:
            store = self._group(copy.group).store
            _check_cells(store, copy.src)
            _check_cells(store, copy.dst)
            store.copy(copy.src, copy.dst)
            self.copied += len(copy.dst)

    def _shift(self, shift: Shift) -> None:
        store = self._group(shift.group).store
        _check_cells(store, shift.cells)
        store.shift(shift.cells, shift.deltas)
        self.shifted += len(shift.cells)

    def _group(self, index: int) -> Group:
        return next(group for group in self.groups if group.index == index)

    # Rows and attention.

    def write(
        self, group: Group, runs: SequenceOf[Run], tokens: SequenceOf[Identities]
    ) -> list[Asked]:
        """Write the rows of all runs; the queries that follow from them.

        Rows whose cells were given away again within the same step are not written.
        """
        if self.is_scratch:
            return self._write_scratch(group, runs, tokens)
        asked = []
        for run, ids in zip(runs, tokens, strict=True):
            positions, cells = self._held(group, run.seq)
            if not len(positions):
                raise IntegrityError(f"{run.seq!r} holds no cell of group {group.index}")
            end = int(positions[-1]) + 1
            own = np.arange(end - run.n, end)
            new = np.searchsorted(positions, own[0])
            self._write(group, ids[positions[new:] - own[0]], positions[new:], cells[new:])
            asked.append(Asked(run.seq, ids, own, positions, cells))
        return asked

    def _write(
        self, group: Group, ids: Identities, positions: NDArray[np.int64], cells: NDArray[np.int64]
    ) -> None:
        content = group.content
        group.store.write(0, cells, content.keys(ids, positions), content.values(ids))

    def _held(self, group: Group, seq: Sequence) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        positions, cells = self.policy.cells_of(seq, group.index)
        if (np.diff(positions) <= 0).any():
            raise IntegrityError(f"{seq!r}: positions of group {group.index} do not rise")
        _check_cells(group.store, cells)
        return positions, cells

    def _write_scratch(
        self, group: Group, runs: SequenceOf[Run], tokens: SequenceOf[Identities]
    ) -> list[Asked]:
        """A policy without a cache: rows of one step only, run after run."""
        store = group.store
        store.reset(sum(run.n for run in runs))
        asked, end = [], 0
        for run, ids in zip(runs, tokens, strict=True):
            positions = np.arange(run.start, run.start + run.n)
            cells = np.arange(end, end + run.n)
            end += run.n
            self._write(group, ids, positions, cells)
            asked.append(Asked(run.seq, ids, positions, positions, cells))
        return asked

    def attention(self, group: Group, batch: SequenceOf[Asked]) -> list[NDArray[Any]]:
        """Outputs of all queries, run by run, read through the policy's own layout."""
        held = [Held(each.positions, each.held, each.cells) for each in batch]
        content, shape = group.content, group.shape
        q = np.concatenate([content.queries(each.tokens, each.positions) for each in batch])
        out = np.zeros((len(q), shape.heads, shape.row.v_dim), np.float32)
        for reading in group.layout(shape, held):
            rows = attend(group.store, 0, q[reading.queries], reading, shape.scale)
            out[reading.queries] = self.backend.on_host(rows)
        ends = np.cumsum([len(each.positions) for each in batch])[:-1]
        return np.split(out, ends)


def _check_cells(store: KVStore, cells: NDArray[np.int64]) -> None:
    if len(cells) and (cells.min() < 0 or cells.max() >= store.cells):
        raise IntegrityError(f"cell {cells.min()} or {cells.max()} is not one of {store.cells}")
