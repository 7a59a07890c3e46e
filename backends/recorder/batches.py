"""Random batches for ``llama_decode``: prompts, steps, interleaved or shared tokens, wrong ones.

A batch is a list of runs ``[[seq ids], first position, n]``.
"""

from __future__ import annotations

from random import Random
from typing import Any

Runs = list[list[Any]]
Positions = list[list[int]]


class Batches:
    """Draws batches of at most ``config["n_batch"]`` tokens that fit where sequences are."""

    def __init__(self, rng: Random, config: dict[str, Any], can_share: bool) -> None:
        """can_share: whether tokens of several sequences may be asked for."""
        self._rng = rng
        self._n_seq_max: int = config["n_seq_max"]
        self._room = min(config["n_ctx"], config["n_batch"])
        self._start: int = config["pos0"]
        self._long = config["profile"] == "fill"
        kinds = {self._prompt: 4, self._step: 4, self._step_and_prompt: 3, self._interleaved: 2}
        if can_share:
            kinds[self._shared] = 2
        kinds[self._wrong] = 1
        self._kinds = kinds

    def draw(self, positions: Positions) -> Runs:
        """A batch for sequences that are at ``positions``."""
        kind = self._rng.choices(list(self._kinds), list(self._kinds.values()))[0]
        return kind(positions)

    def closing(self, seq: int, positions: Positions) -> Runs:
        """One token of one sequence."""
        return [[[seq], self._next(positions, seq), 1]]

    def _next(self, positions: Positions, seq: int) -> int:
        highest = positions[seq][1]
        if highest >= 0:
            return highest + 1
        return self._start + self._rng.choice((0, 0, 0, 0, 7))

    def _length(self, room: int) -> int:
        rng = self._rng
        longest = max(1, min(room, room if self._long else room // 2))
        return rng.randint(1, longest) if rng.random() < 0.7 else rng.randint(1, min(4, longest))

    def _seqs(self, at_most: int) -> list[int]:
        n = self._rng.randint(1, max(1, min(at_most, self._n_seq_max)))
        return self._rng.sample(range(self._n_seq_max), n)

    def _prompt(self, positions: Positions) -> Runs:
        seq = self._rng.randrange(self._n_seq_max)
        return [[[seq], self._next(positions, seq), self._length(self._room)]]

    def _step(self, positions: Positions) -> Runs:
        seqs = self._seqs(self._room)
        if self._rng.random() < 0.5:
            seqs.sort()
        return [[[seq], self._next(positions, seq), 1] for seq in seqs]

    def _step_and_prompt(self, positions: Positions) -> Runs:
        runs = self._step(positions)
        free = [s for s in range(self._n_seq_max) if [s] not in [run[0] for run in runs]]
        room = self._room - len(runs)
        if free and room > 0:
            seq = self._rng.choice(free)
            runs.append([[seq], self._next(positions, seq), self._length(room)])
        return runs

    def _interleaved(self, positions: Positions) -> Runs:
        seqs = self._seqs(4)
        at = {seq: self._next(positions, seq) for seq in seqs}
        runs: Runs = []
        for _ in range(self._length(self._room)):
            seq = self._rng.choice(seqs)
            runs.append([[seq], at[seq], 1])
            at[seq] += 1
        return runs

    def _shared(self, positions: Positions) -> Runs:
        """A prompt of several sequences that are at the same positions, then some of their own."""
        seq = self._rng.randrange(self._n_seq_max)
        alike = [s for s in range(self._n_seq_max) if positions[s] == positions[seq]]
        self._rng.shuffle(alike)
        seqs = sorted(alike[: self._rng.randint(1, len(alike))])
        first = self._next(positions, seqs[0])
        n = self._length(max(1, self._room - len(seqs)))
        runs: Runs = [[seqs, first, n]]
        if n + len(seqs) <= self._room and self._rng.random() < 0.5:
            runs += [[[s], first + n, 1] for s in seqs]
        return runs

    def _wrong(self, positions: Positions) -> Runs:
        """A batch that llama.cpp refuses, unless chance makes it a good one."""
        rng, seq = self._rng, self._rng.randrange(self._n_seq_max)
        first = self._next(positions, seq)
        wrong: list[Runs] = [
            [],
            [[[self._n_seq_max], 0, 1]],
            [[[-1], 0, 1]],
            [[[seq], first + 1, 1]],
            [[[seq], max(0, first - 2), 1]],
            [[[seq], first, 1], [[seq], first + 2, 1]],
            [[[seq], first + 1, 1], [[seq], first, 1]],
            [[[seq], first, 2], [[seq], first + 1, 1]],
        ]
        return rng.choice([runs for runs in wrong if sum(r[2] for r in runs) <= self._room])
