"""Policies with one thing wrong each: verification must notice every one of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from backends.verification.scenarios import SWAP, TIGHT, Scenario
from backends.verification.traffic import Mixed
from sim.policies.contiguous import Contiguous
from sim.policies.iswa import ISWA
from sim.policies.none import NoCache
from sim.policies.paged import Paged
from sim.policies.ring import Ring
from sim.step import Copy, Shift

ROOM = Scenario("room")
GROWING = Scenario("growing", tokens=TIGHT)
EXACT = Contiguous.Options(reserve="exact", compaction=True)
SHIFTING = Scenario("shifting", tokens=TIGHT)
WINDOW = Ring.Options(window=64)
WINDOWS = Scenario("windows", "swa", max_seqs=4)
SWAPPING = Scenario("swapping", tokens=300, scheduling=SWAP)
SAMPLES = Scenario("samples", tokens=2048, workload=Mixed(requests=8, samples=2))


class OffByOne(Contiguous):
    """The table of one sequence begins one cell too late."""

    def cells_of(self, seq, group=0):
        positions, cells = super().cells_of(seq, group)
        return positions, cells + (seq.id == 3)


class Exchanged(Ring):
    """Two entries of a table are exchanged."""

    def cells_of(self, seq, group=0):
        positions, cells = super().cells_of(seq, group)
        if len(cells) > 40 and self.steps > 5:
            cells[[4, 30]] = cells[[30, 4]]
        return positions, cells

    steps = 0

    def commit(self, step):
        self.steps += 1
        return super().commit(step)


class ForeignCell(Ring):
    """A sequence reads a row of another one."""

    def cells_of(self, seq, group=0):
        positions, cells = super().cells_of(seq, group)
        if seq.id == 4 and 2 in self._ids:
            other = self.caches[0].cells_of(self._ids[2])[1]
            if len(other) and len(cells) > 3:
                cells[1] = other[0]
        return positions, cells


class FreedTooEarly(Contiguous):
    """The end of every reservation is given to others while it is in use."""

    def _take(self, n):
        start = super()._take(n)
        if start is not None and n > 20:
            self._free.give(start + n - 15, 15)
        return start

    def release(self, seq):
        slot = self._slots.pop(seq.id, None)
        if slot is not None:
            self._count(slot, -1)


class StillInTable(Ring):
    """Cells that were given back are still looked up."""

    gone = None

    def release(self, seq):
        if seq.id in self._ids:
            self.gone = super().cells_of(seq)[1]
        super().release(seq)

    def cells_of(self, seq, group=0):
        positions, cells = super().cells_of(seq, group)
        if self.gone is not None and len(cells) > 2:
            cells[0] = self.gone[0]
        return positions, cells


class ForgottenCopy(Contiguous):
    """A sequence moves and its rows stay."""

    def commit(self, step):
        placement = super().commit(step)
        placement.copies[:1] = []
        return placement


class CopiesReversed(Contiguous):
    """Compaction in the wrong order: a row is overwritten before it moves."""

    def commit(self, step):
        placement = super().commit(step)
        placement.copies.reverse()
        return placement


class ShortCopy(Contiguous):
    """The last row of a move is left behind."""

    def commit(self, step):
        placement = super().commit(step)
        placement.copies = [
            Copy(c.kind, c.group, c.src[:-1], c.dst[:-1], c.bytes) for c in placement.copies
        ]
        return placement


class StaleShift(Ring):
    """Positions move and the keys are not turned."""

    def commit(self, step):
        placement = super().commit(step)
        placement.shifts = []
        return placement


class ShiftTwice(Ring):
    """Keys are turned twice."""

    def commit(self, step):
        placement = super().commit(step)
        placement.shifts = placement.shifts * 2
        return placement


class ShiftOneShort(Ring):
    """One key is not turned."""

    def commit(self, step):
        placement = super().commit(step)
        placement.shifts = [
            Shift(s.group, s.cells[:-1], s.deltas[:-1], s.bytes) for s in placement.shifts
        ]
        return placement


class DropsASink(Ring):
    """A context shift drops from one token too early on."""

    def _shift(self, seq, n):
        own, held = self._ids[seq], self._next[seq]
        dropped = max(held + n - self.options.window, 0)
        if dropped:
            dropped = max(dropped, (held - 4) // 2)
            self.memory.seq_rm(own, 3, 3 + dropped)
            self.memory.seq_add(own, 3 + dropped, -1, -dropped)
            self._next[seq] = held - dropped


class WindowTooShort(ISWA):
    """The oldest token of a window is gone one step too early."""

    def cells_of(self, seq, group=0):
        positions, cells = super().cells_of(seq, group)
        window = self.groups[group].window
        if window and len(positions):
            kept = positions > positions[-1] - window + 1
            return positions[kept], cells[kept]
        return positions, cells


class WindowsMixedUp(ISWA):
    """The windowed layers are looked up in the table of the full ones."""

    def cells_of(self, seq, group=0):
        return super().cells_of(seq, 0)


class ReversedSwap(Contiguous):
    """Rows come back from the host in the wrong order."""

    back = None

    def swap_in(self, seq):
        self.back = seq.id
        return super().swap_in(seq)

    def cells_of(self, seq, group=0):
        positions, cells = super().cells_of(seq, group)
        if seq.id == self.back and len(cells) > 8:
            self.back = None
            cells[:8] = cells[:8][::-1].copy()
        return positions, cells


class ForkWithoutRows(Contiguous):
    """A forked sequence gets room and no rows."""

    def fork(self, parent, child):
        forked = super().fork(parent, child)
        self._copies.clear()
        return forked


class SharedForGood(Ring):
    """Both sides of a fork go on writing into the same cells."""

    def __init__(self, *args):
        super().__init__(*args)
        self.twins = {}

    def fork(self, parent, child):
        self.twins[child.id] = parent
        return super().fork(parent, child)

    def cells_of(self, seq, group=0):
        positions, cells = super().cells_of(seq, group)
        parent = self.twins.get(seq.id)
        if parent is not None and parent.id in self._ids:
            theirs = super().cells_of(parent, group)[1]
            shared = min(len(theirs), len(cells))
            cells[:shared] = theirs[:shared]
        return positions, cells


class LostRow(Ring):
    """One position has no cell."""

    def cells_of(self, seq, group=0):
        positions, cells = super().cells_of(seq, group)
        kept = positions != 7
        return positions[kept], cells[kept]


class OnePositionOff(Ring):
    """Positions are counted from one."""

    def cells_of(self, seq, group=0):
        positions, cells = super().cells_of(seq, group)
        return positions + 1, cells


class NotFromTheStart(NoCache):
    """Recomputation leaves the first token out."""

    def commit(self, step):
        placement = super().commit(step)
        placement.runs = [
            run._replace(start=1, n=run.n - 1) if run.n > 20 else run for run in placement.runs
        ]
        return placement


class RunsElsewhere(Ring):
    """A planned run of decode steps writes its cells in another order than it says."""

    leapt = False

    def plan_run(self, seqs, steps):
        plan = super().plan_run(seqs, steps)
        if plan is not None and len(seqs) > 1:
            self.leapt = True
        return plan

    def cells_of(self, seq, group=0):
        positions, cells = super().cells_of(seq, group)
        if self.leapt and len(cells) > 2 and seq.computed % 2:
            cells[[-1, -2]] = cells[[-2, -1]]
        return positions, cells


class NextBlock(Paged):
    """A block table is off by one block for one sequence."""

    def cells_of(self, seq, group=0):
        positions, cells = super().cells_of(seq, group)
        return positions, cells + (self.options.block_size if seq.id == 2 else 0)


class WrittenInPlace(Paged):
    """A shared block is written into before it is copied."""

    def _owe_copies(self):
        self.manager.moved.clear()


class HitTooLong(Paged):
    """The prefix cache claims a block more than it has."""

    def lookup(self, seq):
        hit = super().lookup(seq)
        if not hit or hit + 17 > seq.tokens:
            return hit
        found, known = self._found
        tables = [[*table, table[-1]] for table in known.tables]
        self._found = (found, known._replace(tokens=hit + 16, tables=tables))
        return hit + 16


class GivenTwice(Paged):
    """A block that a sequence holds is given to the next one too."""

    def allocate(self, seq, n, hit=0):
        known = seq.id in self.manager.holdings
        allocated = super().allocate(seq, n, hit)
        if allocated and not known and seq.id == 3:
            own = self.manager.holdings[3].tables[0].blocks
            own[0] = next(iter(self.manager.holdings.values())).tables[0].blocks[0]
        return allocated


DEFECTS: list[tuple[type, Scenario, object]] = [
    (OffByOne, ROOM, None),
    (Exchanged, ROOM, None),
    (ForeignCell, ROOM, None),
    (FreedTooEarly, Scenario("tight", tokens=900), None),
    (StillInTable, ROOM, None),
    (ForgottenCopy, GROWING, EXACT),
    (CopiesReversed, GROWING, EXACT),
    (ShortCopy, GROWING, EXACT),
    (StaleShift, SHIFTING, WINDOW),
    (ShiftTwice, SHIFTING, WINDOW),
    (ShiftOneShort, SHIFTING, WINDOW),
    (DropsASink, SHIFTING, WINDOW),
    (WindowTooShort, WINDOWS, None),
    (WindowsMixedUp, WINDOWS, None),
    (ReversedSwap, SWAPPING, EXACT),
    (ForkWithoutRows, SAMPLES, None),
    (SharedForGood, SAMPLES, None),
    (LostRow, ROOM, None),
    (OnePositionOff, ROOM, None),
    (NotFromTheStart, ROOM, None),
    (NextBlock, ROOM, None),
    (WrittenInPlace, SAMPLES, None),
    (HitTooLong, Scenario("shared", workload=Mixed(shared=50)), None),
    (GivenTwice, ROOM, None),
    (RunsElsewhere, Scenario("runs", at_once=True), None),
]


@pytest.mark.parametrize(
    ("broken", "scenario", "options"), [pytest.param(*d, id=d[0].__name__) for d in DEFECTS]
)
def test_a_defect_is_caught(broken: Callable, scenario: Scenario, options):
    report = scenario.run(broken(scenario.budget(), options))
    assert report.failures and not report.passed


SOUND = {
    (cls.__mro__[1].__name__, scenario.name): (cls.__mro__[1], scenario, options)
    for cls, scenario, options in DEFECTS
}


@pytest.mark.parametrize(
    ("policy", "scenario", "options"),
    [pytest.param(*sound, id="-".join(name)) for name, sound in SOUND.items()],
)
def test_the_same_policy_without_the_defect_passes(policy, scenario, options):
    assert scenario.run(policy(scenario.budget(), options)).failures == []


@pytest.mark.parametrize("kind", ["q4_0", "fp8"])
def test_coarse_types_do_not_hide_a_misplaced_row(kind):
    scenario = Scenario("coarse", kv_type=kind)
    report = scenario.run(OffByOne(scenario.budget()))
    assert report.failures


def test_what_a_policy_raises_is_a_failure_with_its_place():
    class Raises(Contiguous):
        def commit(self, step):
            raise KeyError("lost")

    report = ROOM.run(Raises(ROOM.budget()))
    assert len(report.failures) == 1 and "KeyError: 'lost' (test_verify" in report.failures[0]


def test_a_wrong_row_is_named():
    line = ROOM.run(OffByOne(ROOM.budget())).failures[0]
    assert "Sequence(3," in line and "position" in line
    assert np.isfinite(ROOM.run(Contiguous(ROOM.budget())).error)
