"""`verify`: is every row where the policy says it is?

A workload's steps are scheduled and placed as in a simulation, but carried out: rows are written
to the cells that the policy chose, moved by the copies it ordered, rotated, swapped, and attended
over through its tables. Every output is compared with a dense reference that has no policy.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.choice import backend_of
from backends.shape import first_visible
from backends.verification.content import Identities
from backends.verification.driver import Driver
from backends.verification.executor import Asked, Executor, Group
from backends.verification.history import Histories
from sim.owners import SHARED, UNUSED
from sim.policies.base import Policy
from sim.schedulers.base import Scheduler
from sim.sequence import Sequence
from sim.step import Draft, Placement, Run
from workloads.errors import InputError
from workloads.request import Workload

TOLERANCE = 2e-5
"""Largest difference that single precision may make; values are at most 1, outputs too."""

QUERIES = 8
"""Queries of one run that are compared at most; together they see all of its rows."""

ENOUGH = 10
"""Failures after which there is nothing more to learn."""


@dataclass
class VerifyReport:
    """What was carried out, and what came out wrong.

    steps: engine steps. sequences: of them ``refused`` could not be served at all. outputs:
    attention outputs (one query in one layer group) that were compared; unchecked: outputs that
    could not be, because a later part of the same step took the cells they had read. error: the
    largest difference from the reference over rows of the same type. rounding: the largest one
    from the reference over exact rows; rounding_share: the largest fraction of its bound. copied,
    shifted: cells. swapped: bytes, both ways. lossy_from: the step at which a lossy policy gave up
    rows for good, after which there is nothing to compare; 0 for none. failures: one line each.
    """

    policy: str
    backend: str
    kv_types: str = ""
    steps: int = 0
    sequences: int = 0
    refused: int = 0
    outputs: int = 0
    unchecked: int = 0
    error: float = 0.0
    rounding: float = 0.0
    rounding_share: float = 0.0
    copied: int = 0
    shifted: int = 0
    swapped: int = 0
    lossy_from: int = 0
    failures: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether something was compared and nothing was wrong."""
        return bool(self.outputs) and not self.failures


def verify(
    policy: Policy,
    scheduler_for: Callable[[Policy], Scheduler],
    workload: Workload,
    *,
    backend: str = "numpy",
    at_once: bool = False,
    v_transposed: bool = False,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> VerifyReport:
    """Run all of ``workload`` and compare every output; stops at `ENOUGH` failures.

    scheduler_for: makes a scheduler over the policy it is given. at_once: also take runs of
    decode steps as one, and compare where they end (where anything is kept for that long).
    v_transposed: keep V as llama.cpp does without flash attention.
    progress: called with the steps taken. Whatever a policy raises is a failure. Raises
    `InputError` for a backend that is not there and a model without K and V rows.
    """
    check = _Check(policy, backend, seed, v_transposed)
    scheduler = scheduler_for(check.executor.watched)  # type: ignore[arg-type]
    at_once = at_once and not check.executor.is_scratch
    driver = Driver(policy, scheduler, workload, check, at_once)
    report = check.report
    try:
        for report.steps in driver.steps():
            if progress is not None:
                progress(report.steps)
            if len(report.failures) >= ENOUGH or report.lossy_from:
                break
    except InputError:
        raise
    except Exception as error:
        report.failures.append(f"step {report.steps + 1}: {_raised(error)}")
    report.sequences, report.refused = driver.sequences, driver.refused
    watched = check.executor.watched
    report.copied, report.shifted = check.executor.copied, check.executor.shifted
    report.swapped = watched.bytes_out + watched.bytes_in
    return report


def _raised(error: Exception) -> str:
    """An exception as one line that says where it was raised."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({Path(last.filename).name}:{last.lineno})"


class _Check:
    """Follows a driver: carries every step out and compares."""

    def __init__(self, policy: Policy, backend: str, seed: int, v_transposed: bool) -> None:
        budget = policy.budget
        self.policy = policy
        self.executor = Executor(policy, backend_of(backend), seed, v_transposed)
        self.histories = Histories(budget, [group.content for group in self.executor.groups])
        self.report = VerifyReport(policy.name, backend, f"{budget.kv_type_k}/{budget.kv_type_v}")
        self._is_rounded = budget.kv_type_k != "f32" or budget.kv_type_v != "f32"

    def follow(self, placement: Placement, singly: bool, drafts: Mapping[int, Draft]) -> None:
        """Carry out a step, write its rows, compare its outputs.

        Not the step in which old tokens become centroids, nor any after it: a dense reference has
        nothing to say of what is left of them (`backends.summary` says how far off that is).
        """
        executor = self.executor
        if any(copy.kind == "summary" for copy in placement.copies):
            self.report.lossy_from = self.report.steps + 1
        if self.report.lossy_from:
            return
        # Rejected drafts have other rows than the tokens that take their places later.
        self.histories.reject(
            {
                seq.id: start + n - drafts[seq.id].rejected
                for seq, start, n in placement.runs
                if seq.id in drafts
            }
        )
        executor.prepare(placement)
        for run in placement.runs:
            self._compute(run)
        tokens = [self._tokens(run) for run in placement.runs]
        written = [executor.write(group, placement.runs, tokens) for group in executor.groups]
        is_partial = not singly or placement.passes > 1
        for place, (group, batch) in enumerate(zip(executor.groups, written, strict=True)):
            asked = [self._sampled(group, each, is_partial) for each in batch]
            for each, out in zip(asked, executor.attention(group, asked), strict=True):
                self._compare(place, group, each, out)

    def forked(self, parent: Sequence, child: Sequence) -> None:
        """The child's past is the parent's."""
        self.histories.fork(parent, child)

    def finished(self, seq: Sequence) -> None:
        """Nothing more will be asked of it."""
        self.histories.forget(seq)

    def _tokens(self, run: Run) -> Identities:
        return self.histories.identities(run.seq, run.start, run.n)

    def _compute(self, run: Run) -> None:
        """Let the history go on; with a context shift where the policy is one that does them.

        How much a shift drops is the policy's business, but what is left must be the sinks and
        the latest tokens, at positions without a gap (llama-server's context shift).
        """
        histories, seq = self.histories, run.seq
        histories.rewind(seq, run.start)
        options: Any = self.policy.options
        if getattr(options, "window", 0):
            positions, _ = self.policy.cells_of(seq, self.executor.groups[0].index)
            dropped = histories.length(seq) + run.n - len(positions)
            if dropped > 0:
                histories.shift(seq, options.sinks, dropped)
        histories.compute(seq, run.start + run.n)

    def _sampled(self, group: Group, asked: Asked, is_partial: bool) -> Asked:
        """The queries to compare: the last one and some others that find all that they see.

        Where the step was taken in parts, cells that only an earlier part had to see may be
        overwritten by now.
        """
        positions, held = asked.positions, asked.held
        some = np.unique(np.linspace(0, len(positions) - 1, QUERIES).round().astype(np.int64))
        seen = np.array([first_visible(group.shape, int(p)) for p in positions[some]])
        found = np.searchsorted(held, positions[some], "right") - np.searchsorted(held, seen)
        complete = found == positions[some] - seen + 1
        for query in some[~complete]:
            if is_partial and group.shape.window:
                self.report.unchecked += 1
            else:
                self._fail(group, asked, int(query), "some of the cells that it sees are not held")
        expected = self.histories.length(asked.seq)
        if len(held) and held[-1] + 1 != expected:
            self._fail(group, asked, -1, f"{held[-1] + 1} positions are held, not {expected}")
        some = some[complete]
        return Asked(asked.seq, asked.tokens[some], positions[some], held, asked.cells)

    def _compare(self, place: int, group: Group, asked: Asked, out: NDArray[np.float32]) -> None:
        if not len(out):
            return
        report = self.report
        report.outputs += len(out)
        self._check_owners(group, asked)
        history = self.histories.of(asked.seq, place)
        errors = np.abs(out - history.attention(asked.tokens, asked.positions)).max(axis=(1, 2))
        for query in np.flatnonzero(~(errors <= TOLERANCE)):
            self._fail(group, asked, int(query), f"differs by {errors[query]:.2g}")
        report.error = max(report.error, float(np.nan_to_num(errors, nan=np.inf).max()))
        if self._is_rounded:
            last = slice(-1, None)
            exact = history.unrounded(asked.tokens[last], asked.positions[last])
            rounding = np.abs(out[last] - exact.output)
            share = float((rounding / (exact.bound + TOLERANCE)).max())
            report.rounding = max(report.rounding, float(rounding.max()))
            report.rounding_share = max(report.rounding_share, share)
            if not share <= 1:
                self._fail(group, asked, -1, f"rounding makes {share:.2g} times what it may")

    def _check_owners(self, group: Group, asked: Asked) -> None:
        """What the last query reads must belong to its sequence in the policy's own books."""
        if self.executor.is_scratch:
            return
        owners = self.policy.owners(self.policy.cache_of(group.index))
        position = int(asked.positions[-1])
        first = first_visible(group.shape, position)
        sees = (asked.held >= first) & (asked.held <= position)
        found = owners[asked.cells[sees]]
        own = (found == asked.seq.id) | (found == SHARED)
        if group.shape.window:
            own |= found == UNUSED
        for where in np.flatnonzero(~own)[:1]:
            cell = asked.cells[sees][where]
            self._fail(group, asked, -1, f"cell {cell} that it reads is owned by {found[where]}")

    def _fail(self, group: Group, asked: Asked, query: int, what: str) -> None:
        step = self.report.steps + 1
        position = asked.positions[query] if len(asked.positions) else "?"
        self.report.failures.append(
            f"step {step}: {asked.seq!r}, group {group.index}, position {position}: {what}"
        )
