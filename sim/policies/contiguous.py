"""`contiguous`: one run of cells for every sequence, reserved when it is admitted.

What FasterTransformer and Orca do, in the variants that the PagedAttention paper (SOSP'23,
section 6.1) compares with: the longest sequence there may be (`max`), the output rounded up to a
power of two (`pow2`), the true length as if it were known (`oracle`); and `exact`, which takes what
the sequence has so far, grows cell by cell and moves the sequence when a neighbour is in the way.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass
from typing import Literal

import numpy as np

from sim.budget import Budget
from sim.decode_run import DecodeRun
from sim.errors import IntegrityError
from sim.owners import FREE, UNUSED
from sim.policies.base import Policy
from sim.policies.contiguous_ops import ContiguousOperations, Slot
from sim.policies.freelist import BuddyList, FitList, FreeList
from sim.reads import exact_reads_of_run
from sim.sequence import Sequence
from sim.step import Cells, Copy, Reads
from sim.usage import Usage
from workloads.errors import InputError
from workloads.plugins import option


class Contiguous(ContiguousOperations, Policy):
    """One contiguous run of cells a sequence; all layers are kept in full."""

    name = "contiguous"
    can_fork = True

    @dataclass(frozen=True)
    class Options:
        """How much is reserved (see the module's text), where it is put, whether holes close."""

        reserve: Literal["max", "pow2", "oracle", "exact"] = option(
            "pow2", "cells reserved: max, pow2, oracle or exact"
        )
        fit: Literal["first", "best", "buddy"] = option(
            "first", "lowest run that serves, shortest such, or powers of two"
        )
        compaction: bool = option(
            False, "move all sequences together when free cells would do but no run does"
        )

    options: Options

    def __init__(self, budget: Budget, options: Options | None = None) -> None:
        super().__init__(budget, options)
        self.cell = sum(self.cell_bytes)
        if not self.cell:
            raise InputError(
                f"contiguous: {budget.model.name} has no attention; recurrent and paged serve it"
            )
        self.capacity = budget.bytes // self.cell
        if self.capacity < 1:
            raise InputError(
                f"{budget.bytes} bytes of K/V memory hold no token of {budget.model.name}"
                f" ({self.cell} bytes)"
            )
        if self.options.compaction and self.options.fit == "buddy":
            raise InputError("contiguous.compaction: the buddy system has fixed places")
        self._free: FreeList = (
            BuddyList(self.capacity)
            if self.options.fit == "buddy"
            else FitList(self.capacity, best=self.options.fit == "best")
        )
        self._slots: dict[int, Slot] = {}
        self._live = self._reserved = self._internal = 0
        self._drafts = 0

    def reservation_of(self, seq: Sequence) -> int:
        """Cells that ``seq`` asks for when it is admitted."""
        longest = min(self.budget.max_model_len, self.capacity)
        most = self._most_of(seq)
        if self.options.reserve == "max":
            return max(longest, most)
        if self.options.reserve == "pow2":
            output = seq.limit - seq.prompt
            return max(min(seq.prompt + (1 << (output - 1).bit_length()), longest), most)
        return most if self.options.reserve == "oracle" else seq.tokens

    def _most_of(self, seq: Sequence) -> int:
        """Cells that ``seq`` will need at the most, for drafts behind its last token too."""
        return max(seq.limit, min(seq.limit + self._drafts, self.budget.max_model_len))

    def can_ever_hold(self, seq: Sequence) -> bool:
        """Whether the reservation is no larger than the largest run of an empty cache."""
        return max(self.reservation_of(seq), self._most_of(seq)) <= self._largest_when_empty()

    def _largest_when_empty(self) -> int:
        if self.options.fit == "buddy":
            return 1 << (self.capacity.bit_length() - 1)
        return self.capacity

    def allocate(self, seq: Sequence, n: int, hit: int = 0) -> bool:
        """Reserve at the first call; later calls use the reservation or, if `exact`, grow it."""
        slot = self._slots.get(seq.id)
        needed = seq.computed + n
        if slot is None:
            slot = self._reserve(seq.id, max(needed, self.reservation_of(seq)), seq.limit)
            if slot is None:
                return False
        elif needed > slot.size and not self._grow(slot, needed):
            return False
        self._fill(slot, needed - slot.live)
        return True

    def _fill(self, slot: Slot, n: int) -> None:
        """Write ``n`` more cells; most are cells that were reserved for just that."""
        if 0 <= n <= slot.reserved:
            slot.live += n
            self._live += n
            self._reserved -= n
        else:
            self._change(slot, live=slot.live + n)

    def _reserve(self, seq: int, size: int, final: int) -> Slot | None:
        """A new slot of ``size`` cells for ``seq``, or None."""
        start = self._take(size)
        if start is None:
            return None
        slot = self._slots[seq] = Slot(start, 0, 0, final)
        self._change(slot, size=self._free.size_of(size))
        return slot

    def _change(self, slot: Slot, size: int | None = None, live: int | None = None) -> None:
        """Set fields of ``slot`` and keep the counters in step."""
        self._count(slot, -1)
        slot.size = slot.size if size is None else size
        slot.live = slot.live if live is None else live
        self._count(slot, 1)

    def _count(self, slot: Slot, sign: int) -> None:
        self._live += sign * slot.live
        self._reserved += sign * slot.reserved
        self._internal += sign * slot.internal

    def _take(self, n: int) -> int | None:
        start = self._free.take(n)
        if start is None and self.options.compaction and self._free.free >= n:
            self._compact()
            start = self._free.take(n)
        return start

    def _grow(self, slot: Slot, needed: int) -> bool:
        """Lengthen the slot in place, or move it to where it fits."""
        end, more = slot.start + slot.size, needed - slot.size
        if isinstance(self._free, FitList) and self._free.extend(end, more):
            self._change(slot, size=needed)
            return True
        start = self._take(needed)
        if start is None:
            return False
        self._owe(slot.start, start, slot.live, "grow")
        self._free.give(slot.start, slot.size)
        slot.start = start
        self._change(slot, size=self._free.size_of(needed))
        return True

    def _owe(self, src: int, dst: int, n: int, kind: str) -> None:
        """All layers lie at the same addresses and move together."""
        cells = np.arange(n, dtype=np.int64)
        for group, size in enumerate(self.cell_bytes):
            self._copies.append(Copy(kind, group, src + cells, dst + cells, n * size))

    def _compact(self) -> None:
        """Move every slot down to its predecessor's end."""
        end = 0
        for slot in sorted(self._slots.values(), key=lambda slot: slot.start):
            self._free.give(slot.start, slot.size)
            if slot.start != end:
                self._owe(slot.start, end, slot.live, "compaction")
                slot.start = end
            end += slot.size
        self._free.take(end)

    def release(self, seq: Sequence) -> None:
        """Give the whole reservation back."""
        if seq.id in self._slots:
            self._give_back(seq.id)

    def _give_back(self, seq: int) -> None:
        slot = self._slots.pop(seq)
        self._count(slot, -1)
        self._free.give(slot.start, slot.size)

    def fork(self, parent: Sequence, child: Sequence) -> bool:
        """A reservation of its own for the child, and a copy of what the parent has computed."""
        if not self.allocate(child, parent.computed):
            return False
        source, target = self._slots[parent.id], self._slots[child.id]
        self._owe(source.start, target.start, parent.computed, "fork")
        return True

    def speculate(self, tokens: int, lookahead: int = 0) -> None:
        """Reservations get room for the drafts behind the last token."""
        self._drafts = tokens

    def take_back(self, seq: Sequence, n: int) -> None:
        """The cells stay reserved."""
        slot = self._slots[seq.id]
        self._change(slot, live=slot.live - n)

    def plan_run(self, seqs: SequenceOf[Sequence], steps: int) -> DecodeRun | None:
        """Nothing but counters moves while reservations last; `exact` grows step by step."""
        if self.options.reserve == "exact":
            return None
        return _ContiguousRun(self, [self._slots[seq.id] for seq in seqs], steps)

    def usage(self) -> tuple[Usage, ...]:
        """One cache for all layers."""
        return self._usage_with(self._live, self._reserved, self._internal)

    def counted_usage(self) -> tuple[Usage, ...]:
        """From the reservations."""
        slots = self._slots.values()
        return self._usage_with(
            sum(slot.live for slot in slots),
            sum(slot.reserved for slot in slots),
            sum(slot.internal for slot in slots),
        )

    def _usage_with(self, live: int, reserved: int, internal: int) -> tuple[Usage, ...]:
        free = self._free.free
        external = free - self._free.largest
        return (Usage(self.capacity, live, reserved, internal, free, external, 0, self.cell),)

    def holders(self) -> Iterable[int]:
        """Ids of all sequences with a reservation."""
        return self._slots.keys()

    def largest_free_run(self, cache: int = 0) -> int:
        """The largest request that would be met now."""
        return self._free.largest

    def cells_of(self, seq: Sequence, group: int = 0) -> tuple[Cells, Cells]:
        """Position p lives p cells behind the start of the reservation."""
        slot = self._slots[seq.id]
        positions = np.arange(slot.live, dtype=np.int64)
        return positions, slot.start + positions

    def owners(self, cache: int = 0) -> Cells:
        """Written cells by owner; UNUSED where a reservation is not written yet."""
        owners = np.full(self.capacity, FREE, dtype=np.int64)
        for owner, slot in self._slots.items():
            owners[slot.start : slot.start + slot.size] = UNUSED
            owners[slot.start : slot.start + slot.live] = owner
        return owners

    def check_integrity(self) -> None:
        """Reservations do not overlap, nor reach beyond the end."""
        super().check_integrity()
        end = 0
        for slot in sorted(self._slots.values(), key=lambda slot: slot.start):
            if slot.start < end or slot.live > slot.size:
                raise IntegrityError(f"reservation at {slot.start} overlaps or overflows")
            end = slot.start + slot.size
        if end > self.capacity:
            raise IntegrityError(f"reservations up to {end} of {self.capacity} cells")


class _ContiguousRun(DecodeRun):
    def __init__(self, policy: Contiguous, slots: list[Slot], steps: int) -> None:
        super().__init__(min(steps, min(slot.size - slot.live for slot in slots)))
        self._policy = policy
        self._slots = slots

    def _foreseen_reads(self) -> tuple[Reads, ...]:
        lengths = np.array([slot.live for slot in self._slots], dtype=np.int64)
        return exact_reads_of_run(self._policy.groups, lengths, self.steps)

    def _foreseen_usage(self) -> tuple[Usage, ...]:
        grown = len(self._slots) * np.arange(1, self.steps + 1, dtype=np.int64)
        usage = self._policy.usage()[0]
        usage.live = usage.live + grown
        usage.reserved = usage.reserved - grown
        return (usage,)

    def _apply(self, steps: int) -> None:
        for slot in self._slots:
            self._policy._fill(slot, steps)
