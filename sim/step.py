"""The value that travels through an engine step: what runs, where it lives, what it costs."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sim.sequence import Sequence

Cells: TypeAlias = NDArray[np.int64]
Count: TypeAlias = "int | NDArray[np.int64]"
"""A number of one step, or an array of it over the steps of a decode run."""


class Run(NamedTuple):
    """``n`` tokens of ``seq`` from position ``start`` on, computed in one step."""

    seq: Sequence
    start: int
    n: int


class Draft(NamedTuple):
    """What becomes of the tokens that were drafted for a sequence (`sim.speculation`).

    kept: tokens that the sequence gets of the step, the model's own included.
    """

    drafted: int
    accepted: int
    kept: int

    @property
    def rejected(self) -> int:
        """Tokens whose K/V has to go."""
        return self.drafted - self.accepted


@dataclass(slots=True, init=False)
class Step:
    """What a scheduler decided for one engine step.

    runs: tokens to compute, in scheduling order; a view that is good until the scheduler updates.
    admitted, resumed: sequences that left the waiting queue, first time or after a preemption.
    preempted: in the order of preemption. refused: (sequence, reason) for every failed try.
    failed: (sequence, reason) for those that the scheduler has given up; they are gone.
    swapped_out, swapped_in: bytes that the host link has to carry before the step may start.
    drafts: by sequence id, for those of the runs that verify drafts; None without speculation.
    """

    runs: SequenceOf[Run]
    admitted: list[Sequence]
    resumed: list[Sequence]
    preempted: list[Sequence]
    refused: list[tuple[Sequence, str]]
    failed: list[tuple[Sequence, str]]
    swapped_out: int
    swapped_in: int
    drafts: Mapping[int, Draft] | None

    def __init__(self, runs: SequenceOf[Run] | None = None) -> None:
        self.runs = [] if runs is None else runs
        self.admitted = []
        self.resumed = []
        self.preempted = []
        self.refused = []
        self.failed = []
        self.swapped_out = self.swapped_in = 0
        self.drafts = None


class Reads(NamedTuple):
    """What attention reads in one layer group during a step (or a decode run, as arrays).

    cells: K/V cells loaded, dead and foreign ones included, summed over sequences; in a recurrent
        group the states loaded and stored, each of which is a move of the whole state.
    pairs: query-cell pairs that are scored, masked ones included.
    gathers: block-table entries (or single scattered cells) followed to find the cells.
    """

    cells: Count
    pairs: Count
    gathers: Count


@dataclass(slots=True)
class Copy:
    """K/V moved inside the cache: ``dst[i]`` takes what ``src[i]`` holds.

    A step's copies are done in their order, before its rows are written; each of them reads all
    of ``src`` before it writes.

    kind: why it is moved: ``cow``, ``defrag``, ``compaction``, ``grow``, ``stream``, ``fork``.
    group: index of the layer group. src, dst: physical cells, equal in number.
    bytes: K and V of all layers of the group.
    """

    kind: str
    group: int
    src: Cells
    dst: Cells
    bytes: int


@dataclass(slots=True)
class Shift:
    """A K-shift: the keys of ``cells`` of ``group`` are rotated by ``deltas`` positions."""

    group: int
    cells: Cells
    deltas: Cells
    bytes: int


@dataclass(slots=True, init=False)
class Placement:
    """What a policy adds to a step: what attention reads, and the work it owes beforehand.

    runs: tokens that really have to be computed; more than were scheduled where K/V is not kept.
    reads: per layer group of the model.
    passes: forward passes that the tokens are split into (llama.cpp's ubatches).
    failures: searches for a place that found none before this one was found.
    """

    runs: SequenceOf[Run]
    reads: tuple[Reads, ...]
    copies: list[Copy]
    shifts: list[Shift]
    passes: int
    failures: int

    def __init__(
        self,
        runs: SequenceOf[Run],
        reads: tuple[Reads, ...],
        copies: list[Copy] | None = None,
        shifts: list[Shift] | None = None,
        passes: int = 1,
        failures: int = 0,
    ) -> None:
        self.runs = runs
        self.reads = reads
        self.copies = [] if copies is None else copies
        self.shifts = [] if shifts is None else shifts
        self.passes = passes
        self.failures = failures


@dataclass(slots=True, init=False)
class Work:
    """A step (or a run of equal decode steps) as a time model sees it.

    tokens: rows through the linear layers. sequences: rows through the output head.
    prefills: (new tokens, context before them) of every run that is not a decode.
    decodes: number of decoding sequences; decode_context: sum of their lengths, the new token
    included; decode_squares: sum of the squares of these lengths; decode_longest: the longest.
    reads: per layer group. Arrays over steps where the work is a run of ``steps`` steps.
    passes: forward passes, each of which reads the weights.
    copy_bytes, shift_bytes: K/V bytes moved inside the cache, and rotated in place.
    """

    tokens: Count
    sequences: int
    reads: tuple[Reads, ...]
    prefills: tuple[tuple[int, int], ...]
    decodes: int
    decode_context: Count
    decode_squares: Count
    decode_longest: Count
    passes: int
    copy_bytes: int
    shift_bytes: int
    steps: int

    def __init__(
        self,
        tokens: Count,
        sequences: int,
        reads: tuple[Reads, ...],
        prefills: tuple[tuple[int, int], ...] = (),
        decodes: int = 0,
        decode_context: Count = 0,
        decode_squares: Count = 0,
        decode_longest: Count = 0,
        passes: int = 1,
        copy_bytes: int = 0,
        shift_bytes: int = 0,
        steps: int = 1,
    ) -> None:
        self.tokens = tokens
        self.sequences = sequences
        self.reads = reads
        self.prefills = prefills
        self.decodes = decodes
        self.decode_context = decode_context
        self.decode_squares = decode_squares
        self.decode_longest = decode_longest
        self.passes = passes
        self.copy_bytes = copy_bytes
        self.shift_bytes = shift_bytes
        self.steps = steps
