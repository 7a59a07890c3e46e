"""The interface of an allocator policy.

A policy decides where a (sequence, position) lives. It holds metadata, never K/V bytes. Within
one engine step the scheduler asks and acts through it in this order::

    hit = policy.lookup(seq)            # waiting sequences only: which prefix is there already
    policy.can_admit(seq, hit)          # the gate
    policy.allocate(seq, n, hit)        # all or nothing, for every sequence that shall run
    policy.release(seq)                 # preempted, aborted
    placement = policy.commit(step)     # once: reads, copies and shifts of the step
    policy.release(seq)                 # finished

A minimal policy implements `can_ever_hold`, `allocate`, `release` and `usage`. Everything else
has a default that is right for a policy without sharing, and slow but exact for decode runs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable
from collections.abc import Sequence as SequenceOf
from typing import Any, ClassVar, NamedTuple

from sim.budget import Budget
from sim.compiled import mypyc_attr
from sim.decode_run import DecodeRun
from sim.errors import IntegrityError, UnsupportedOperation
from sim.model import LayerGroup
from sim.policies.no_options import NoOptions
from sim.policies.sequence_ops import SequenceOperations
from sim.reads import exact_reads
from sim.sequence import Sequence
from sim.step import Cells, Copy, Placement, Reads, Shift, Step
from sim.usage import Usage
from workloads.errors import InputError


class HandedOver(NamedTuple):
    """A sequence on its way to another replica.

    state: what the policy saved of it. bytes: what carrying that takes, of each device.
    """

    state: Any
    bytes: int


@mypyc_attr(allow_interpreted_subclasses=True)
class Policy(SequenceOperations, ABC):
    """Base class of all policies; see the module's text for the order of calls."""

    name: ClassVar[str]

    period: int = 1
    """Decoding sequences repeat what `allocate` does for them every so many tokens."""

    can_fork: ClassVar[bool] = False
    """Whether `fork` is offered."""

    lossy: str = ""
    """What attention sees instead of all that the model would see; empty where nothing is lost."""

    Options: ClassVar[type[Any]] = NoOptions
    """Options of the policy; a subclass has its own frozen dataclass of this name."""

    def __init__(self, budget: Budget, options: Any = None) -> None:
        """Lay out ``budget.bytes`` bytes; raises `InputError` where they hold not one cell."""
        self.budget = budget
        self.options = self.Options() if options is None else options
        self.groups: tuple[LayerGroup, ...] = budget.model.groups()
        self.cell_bytes: tuple[int, ...] = tuple(budget.cell_bytes_of(g) for g in self.groups)
        self._copies: list[Copy] = []
        self._shifts: list[Shift] = []

    # What the scheduler asks.

    def lookup(self, seq: Sequence) -> int:
        """Leading tokens of a waiting sequence whose K/V is here already (prefix cache)."""
        del seq
        return 0

    def chunk_of(self, seq: Sequence, computed: int, n: int) -> int:
        """How many of the ``n`` tokens after ``computed`` one step may compute; 0 for none."""
        del seq, computed
        return n

    @abstractmethod
    def can_ever_hold(self, seq: Sequence) -> bool:
        """Whether the whole of ``seq`` would fit into an otherwise empty cache."""

    def can_admit(self, seq: Sequence, hit: int) -> bool:
        """The gate: whether ``seq`` may leave the waiting queue. By default always."""
        del seq, hit
        return True

    def due_residues(self, seq: Sequence) -> Collection[int]:
        """When `allocate` may do anything for a decoding sequence: ``computed`` modulo `period`.

        At other steps the scheduler need not call it. By default it is called at every step. The
        answer is good until the sequence is released or forked.
        """
        del seq
        return (0,)

    def stays_refused(self, seq: Sequence) -> bool:
        """Whether a waiting sequence that was just refused stays so while the others decode.

        Asked with nobody but decoding sequences running, none of which finishes. A `plan_run`
        that follows must end before a step that would make room for it. False is always safe.
        """
        del seq
        return False

    def would_refuse(self, seq: Sequence, n: int, decoding: int) -> bool:
        """Whether ``n`` first tokens of a waiting sequence find no room, as things stand.

        ``decoding`` sequences, all that run, get room for a token each before it is tried. Changes
        nothing. False is always safe: then it has to be tried.
        """
        del seq, n, decoding
        return False

    @property
    def owes(self) -> bool:
        """Whether there are copies or shifts that the next step has to do first."""
        return bool(self._copies or self._shifts)

    # What the scheduler does.

    @abstractmethod
    def allocate(self, seq: Sequence, n: int, hit: int = 0) -> bool:
        """Give room to ``n`` tokens after ``seq.computed + hit``; False changes nothing visible.

        ``hit`` tokens of the prefix cache are taken over at the same time.
        """

    def allocate_each(self, seqs: SequenceOf[Sequence]) -> bool:
        """Give room to one more token of every one of ``seqs``, or of none of them.

        For schedulers that keep decoding sequences together. Who leaves ``seqs`` before `commit`
        gives its room back with that. False says no more than that `allocate` has to be asked for
        one after the other; by default it always has.
        """
        del seqs
        return False

    @abstractmethod
    def release(self, seq: Sequence) -> None:
        """Take everything back that ``seq`` holds; nothing if it holds nothing."""

    def hear_late(self) -> None:
        """Be prepared for a scheduler that knows a sampled token one step later (asynchronous).

        A cache of prefixes is told of it no earlier. By default nothing is kept of that kind.
        """

    def hear_all(self, seq: Sequence) -> None:
        """All that ``seq`` has computed is known by now, after `hear_late`."""
        del seq

    def commit(self, step: Step) -> Placement:
        """Fix the places of all runs of ``step`` and say what the step reads, copies, shifts."""
        return self.placed(step, exact_reads(self.groups, step.runs))

    def placed(self, step: Step, reads: tuple[Reads, ...]) -> Placement:
        """A placement of ``step`` with all copies and shifts that are owed, which it takes."""
        placement = Placement(step.runs, reads, self._copies, self._shifts)
        self._copies, self._shifts = [], []
        return placement

    def fork(self, parent: Sequence, child: Sequence) -> bool:
        """Let ``child`` hold all computed tokens of ``parent``; False where there is no room."""
        raise UnsupportedOperation(self.name, f"fork {parent!r}", "it shares nothing")

    def swap_out(self, seq: Sequence) -> int:
        """Give up the cells of ``seq`` for a copy on the host; returns its bytes."""
        size = self.held_bytes(seq)
        self.release(seq)
        return size

    def swap_in(self, seq: Sequence) -> int | None:
        """Make room for the ``seq.computed`` tokens on the host; bytes, or None for no room."""
        computed, seq.computed = seq.computed, 0
        fits = self.allocate(seq, computed)
        seq.computed = computed
        return self.held_bytes(seq) if fits else None

    def hand_over(self, seq: Sequence) -> HandedOver | None:
        """What another replica needs to go on with ``seq``, which is about to leave; None: K and V.

        By default what it needs are the K, V and states of all tokens that can still be seen.
        """
        del seq
        return None

    def take_over(self, seq: Sequence, handed: HandedOver) -> None:
        """`swap_in` will ask for what `hand_over` of another replica gave; it may never come to it.

        `release` forgets it.
        """

    def speculate(self, tokens: int, lookahead: int = 0) -> None:
        """Be prepared for runs of which up to ``tokens`` drafted tokens may be taken back.

        lookahead: tokens behind a run that must find room too, but are not computed in it. To be
        called before anything is held; raises `InputError` where the policy cannot.
        """
        del tokens, lookahead
        raise InputError(
            f"speculation: policy {self.name!r} takes no tokens back; expected paged, ring, iswa,"
            " contiguous or none"
        )

    def take_back(self, seq: Sequence, n: int) -> None:
        """The last ``n`` tokens of a run that was placed are void, and not in ``computed``."""
        raise UnsupportedOperation(self.name, f"take {n} tokens back from {seq!r}", "it cannot")

    def plan_run(self, seqs: SequenceOf[Sequence], steps: int) -> DecodeRun | None:
        """Plan up to ``steps`` decode steps, or None where only single steps are offered.

        The plan ends before a step that would need `allocate` to say no. Changes nothing.
        Whoever derives from a policy with plans and does something else in a step has to plan
        that, too, or answer None.
        """
        del seqs, steps
        return None

    # What everybody may ask at any moment.

    @abstractmethod
    def usage(self) -> tuple[Usage, ...]:
        """Per cache, from counters: the cost does not grow with the number of cells."""

    def counted_usage(self) -> tuple[Usage, ...]:
        """The same from a look at all that sequences hold, where counters are kept beside it.

        It is what the reference of single steps adds up.
        """
        return self.usage()

    @abstractmethod
    def holders(self) -> Iterable[int]:
        """Ids of all sequences that hold anything."""

    @property
    def evictions(self) -> int:
        """Blocks of the prefix cache that were given up to make room for others, so far."""
        return 0

    def held_bytes(self, seq: Sequence) -> int:
        """Bytes of K/V that moving ``seq`` to the host has to carry."""
        return sum(self.cell_bytes) * seq.computed

    def cache_of(self, group: int) -> int:
        """The cache that serves layer group ``group``; by default one cache serves them all."""
        del group
        return 0

    def cache_name(self, cache: int) -> str:
        """What the cache is called in pictures."""
        del cache
        return "all layers"

    def largest_free_run(self, cache: int = 0) -> int:
        """Cells of the longest run of free cells in the cache."""
        return int(self.usage()[cache].free)

    def cells_of(self, seq: Sequence, group: int = 0) -> tuple[Cells, Cells]:
        """Positions that ``seq`` holds for a layer group, rising, and the cell of each.

        Cells are addresses within ``cache_of(group)``.
        """
        raise UnsupportedOperation(self.name, f"name the cells of {seq!r}", "it has none")

    def owners(self, cache: int = 0) -> Cells:
        """For every cell the sequence that holds it, or FREE, SHARED, UNUSED (`sim.owners`)."""
        raise UnsupportedOperation(self.name, "draw its cells", "it has none")

    def owners_at(self, cells: Cells, cache: int = 0) -> Cells:
        """What `owners` says of some cells.

        Mostly it is asked again and again with the same array, which nobody changes.
        """
        return self.owners(cache)[cells]

    def check_integrity(self) -> None:
        """Raise `IntegrityError` where a conservation law is broken. May be slow; for tests."""
        counted = self.counted_usage()
        if counted != self.usage():
            raise IntegrityError(f"counters say {self.usage()}, sequences {counted}")
        for part in counted:
            used = part.live + part.reserved + part.internal
            if used + part.free != part.capacity:
                raise IntegrityError(f"{used} cells used, {part.free} free of {part.capacity}")
            if not (0 <= part.external <= part.free and 0 <= part.shared <= part.live):
                raise IntegrityError(f"impossible counts: {part}")
