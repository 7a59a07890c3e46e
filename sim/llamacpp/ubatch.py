"""Splitting a batch into micro-batches (``llama_batch_allocr::split_simple``, ``split_equal``)."""

from __future__ import annotations

import numpy as np

from sim.llamacpp.batch import Batch, Decodes, Run
from sim.llamacpp.cells import SHARED
from sim.llamacpp.dues import OWNER_SHIFT, Contents
from sim.llamacpp.errors import EngineAborts


class Tokens:
    """The tokens of one ubatch that go to one stream, ready to be written to cells.

    keys: what their cells will hold (see `Cells.held`); first those of ``decodes``, if there are
    any, then those of ``runs``.
    """

    __slots__ = ("decodes", "keys", "n", "runs")

    def __init__(self, runs: list[Run], decodes: Decodes | None = None) -> None:
        begin = 0 if decodes is None else decodes.seqs.size
        self.runs = runs
        self.decodes = decodes
        self.n = begin + sum([run[2] for run in runs])
        self.keys: Contents = np.empty(self.n, np.int64)
        if decodes is not None:
            self.keys[:begin] = decodes.keys(1)
        for seqs, first, n in runs:
            key = (_code(seqs) << OWNER_SHIFT) + first
            self.keys[begin : begin + n] = np.arange(key, key + n)
            begin += n


def _code(seqs: tuple[int, ...]) -> int:
    return seqs[0] if len(seqs) == 1 else SHARED


class Ubatch:
    """One micro-batch: its runs, and how the engine describes it.

    equal_seqs: n_seqs sequence sets of n_seq_tokens tokens each, listed set by set; else tokens in
    batch order, each its own set.
    """

    __slots__ = ("_batch", "_tokens", "equal_seqs", "n_seq_tokens", "n_seqs", "n_tokens")

    def __init__(self, runs: list[Run] | Batch, n_seqs: int, equal_seqs: bool) -> None:
        self._batch = runs if isinstance(runs, Batch) else Batch(runs)
        self._tokens: Tokens | None = None
        self.n_tokens = self._batch.n_tokens
        self.n_seqs = n_seqs
        self.n_seq_tokens = self.n_tokens // n_seqs
        self.equal_seqs = equal_seqs

    @property
    def runs(self) -> list[Run]:
        """In the order of the tokens."""
        return self._batch.runs

    @property
    def seq_ids(self) -> list[int]:
        """The distinct sequence ids, ascending."""
        return sorted({seq for run in self.runs for seq in run[0]})

    @property
    def n_seq_ids(self) -> int:
        """How many these are."""
        batch = self._batch
        if batch.decodes is None:
            return len({seq for run in batch.rest for seq in run[0]})
        return batch.decodes.seqs.size + len(batch.rest)

    def tokens_of(self, n_stream: int) -> list[tuple[int, Tokens]]:
        """(stream, its tokens) of every stream touched; a stream of its own for each sequence."""
        if n_stream == 1:
            if self._tokens is None:
                self._tokens = Tokens(self._batch.rest, self._batch.decodes)
            return [(0, self._tokens)]
        return [
            (seq, Tokens([run for run in self.runs if run[0][0] == seq])) for seq in self.seq_ids
        ]


def _append(runs: list[Run], run: Run) -> None:
    """Add a run, joining it to the last one where it goes on."""
    if runs:
        seqs, first, n = runs[-1]
        if seqs == run[0] and first + n == run[1]:
            runs[-1] = (seqs, first, n + run[2])
            return
    runs.append(run)


def split_simple(batch: Batch, n_ubatch: int) -> list[Ubatch]:
    """Ubatches of at most ``n_ubatch`` tokens in batch order."""
    if batch.n_tokens <= n_ubatch and batch.has_distinct_sequences:
        return [Ubatch(batch, batch.n_tokens, equal_seqs=False)] if batch.n_tokens else []
    ubatches: list[Ubatch] = []
    runs: list[Run] = []
    room = n_ubatch
    for seqs, first, n in batch.runs:
        while n > 0:
            took = min(n, room)
            _append(runs, (seqs, first, took))
            first, n, room = first + took, n - took, room - took
            if room == 0:
                ubatches.append(Ubatch(runs, n_ubatch, equal_seqs=False))
                runs, room = [], n_ubatch
    if runs:
        ubatches.append(Ubatch(runs, n_ubatch - room, equal_seqs=False))
    return ubatches


class _Lane:
    """The tokens of one sequence set, in batch order, and how many of them are already used."""

    __slots__ = ("first_id", "left", "members", "runs")

    def __init__(self, seqs: tuple[int, ...]) -> None:
        self.members = frozenset(seqs)
        self.first_id = seqs[0]
        self.runs: list[Run] = []
        self.left = 0

    def take(self, n: int, into: list[Run]) -> None:
        self.left -= n
        while n > 0:
            seqs, first, length = self.runs[0]
            took = min(n, length)
            _append(into, (seqs, first, took))
            n -= took
            if took == length:
                self.runs.pop(0)
            else:
                self.runs[0] = (seqs, first + took, length - took)


def split_equal(
    batch: Batch, n_ubatch: int, sequential: bool, n_keep_tail: int = 0
) -> list[Ubatch] | None:
    """Ubatches in which all sequence sets have the same number of tokens.

    sequential: a ubatch takes sets only while their ids follow one another. n_keep_tail: the last
    tokens of a sequence that must not be parted (recurrent snapshots). Returns None where tokens of
    several sequences make a sequential split impossible. Raises `EngineAborts` when a ubatch cannot
    hold the tail.
    """
    if sequential and batch.coupled:
        return None
    if n_keep_tail and n_ubatch <= n_keep_tail:
        raise EngineAborts(
            f"decode(n_ubatch={n_ubatch})", f"GGML_ASSERT(n_ubatch > n_keep_tail = {n_keep_tail})"
        )
    # Lanes stay in the order in which their first unused token stands in the batch: the order of
    # runs, where a lane counts from the first of its runs that is not used up.
    lanes: dict[frozenset[int], _Lane] = {}
    order: list[_Lane] = []
    for run in batch.runs:
        lane = lanes.setdefault(frozenset(run[0]), _Lane(run[0]))
        lane.runs.append(run)
        lane.left += run[2]
        order.append(lane)
    counts = {id(lane): len(lane.runs) for lane in lanes.values()}
    ubatches: list[Ubatch] = []
    while order:
        chosen = _choose(order, n_ubatch, sequential)
        ubatches.append(_fill(chosen, n_ubatch, n_keep_tail))
        order = _still_unused(order, counts)
    return ubatches


def split_singles(seqs: list[int], sequential: bool) -> list[list[int]]:
    """The ubatches, as `split_equal` makes them, of a batch of one token of each of ``seqs``.

    The sequences are distinct and fit into one ubatch.
    """
    if not sequential:
        return [seqs]
    groups, rest = [], seqs
    while rest:
        chosen, left = [rest[0]], []
        for seq in rest[1:]:
            if seq == chosen[-1] + 1:
                chosen.append(seq)
            else:
                left.append(seq)
        groups.append(chosen)
        rest = left
    return groups


def _choose(order: list[_Lane], n_ubatch: int, sequential: bool) -> list[_Lane]:
    """The sets of the next ubatch: disjoint, by first unused token, at most n_ubatch + 1."""
    chosen: list[_Lane] = []
    taken: set[int] = set()
    for lane in order:
        if not taken.isdisjoint(lane.members):
            continue
        if sequential and chosen and lane.first_id != chosen[-1].first_id + 1:
            continue
        chosen.append(lane)
        taken |= lane.members
        if len(chosen) > n_ubatch:
            break
    return chosen


def _fill(chosen: list[_Lane], n_ubatch: int, n_keep_tail: int) -> Ubatch:
    each = min(*(lane.left for lane in chosen), max(1, n_ubatch // len(chosen)))
    if n_keep_tail:
        chosen, each = _keeping_tails(chosen, each, n_ubatch, n_keep_tail)
    runs: list[Run] = []
    for lane in chosen:
        lane.take(each, runs)
    return Ubatch(runs, len(chosen), equal_seqs=True)


def _keeping_tails(
    chosen: list[_Lane], each: int, n_ubatch: int, n_keep_tail: int
) -> tuple[list[_Lane], int]:
    """Drop all from the first set whose tail would be parted; if that is all, fit the first."""
    kept: list[_Lane] = []
    for lane in chosen:
        if 0 < lane.left - each < n_keep_tail:
            break
        kept.append(lane)
    if kept:
        return kept, each
    only = chosen[0]
    return [only], only.left if only.left <= n_ubatch else only.left - n_keep_tail


def _still_unused(order: list[_Lane], counts: dict[int, int]) -> list[_Lane]:
    """``order`` without the runs that are used up (the first ones of each lane)."""
    left: list[_Lane] = []
    skip: dict[int, int] = {}
    for lane in order:
        key = id(lane)
        done = skip.setdefault(key, counts[key] - len(lane.runs))
        if done > 0:
            skip[key] = done - 1
        else:
            left.append(lane)
    for lane in left:
        counts[id(lane)] = len(lane.runs)
    return left
