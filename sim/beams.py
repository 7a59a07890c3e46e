"""Which beams of a beam search survive each step: a stated model of what a real search decides.

Memory management sees nothing of the scores, only who goes on from whom (PagedAttention paper,
section 4.4 and figure 9). Here every beam keeps to its own history with probability
1 - ``turnover``, and else goes on from a beam that is drawn from all of them, step for step and
independently. So two beams have a common ancestor ``width / (2 turnover)`` tokens back on average
(``turnover`` small), and the whole search has one not much further back.
"""

from __future__ import annotations

from bisect import bisect_right

import numpy as np

TURNOVER = 0.1
"""Share of the beams that are chosen anew in a step; an assumption, no source states it."""

_SEED = 0xBEA3


class Ancestry:
    """The whole genealogy of one search: same ``request`` id, same beams.

    width: number of beams. output: tokens that each of them generates.
    """

    def __init__(self, request: int, width: int, output: int, turnover: float = TURNOVER) -> None:
        rng = np.random.default_rng((_SEED, request))
        parents = np.tile(np.arange(width), (output, 1))
        redrawn = rng.random(parents.shape) < turnover
        drawn = rng.integers(width, size=parents.shape)
        parents[redrawn] = drawn[redrawn]
        # Nothing is chosen before the second token, and nothing after the last.
        lengths = np.arange(2, output)
        ranked = np.sort(parents[lengths], axis=1)
        lengths = lengths[(np.diff(ranked, axis=1) == 0).any(axis=1)]
        self._changes: list[int] = lengths.tolist()
        self._parents = dict(zip(self._changes, parents[lengths].tolist(), strict=True))

    def parents_at(self, length: int) -> list[int] | None:
        """For each beam of ``length`` output tokens whom it goes on from; None: all go on."""
        return self._parents.get(length)

    def steps_to_change(self, length: int) -> int | None:
        """Tokens after ``length`` output tokens until a beam dies; None: none does any more."""
        index = bisect_right(self._changes, length)
        return self._changes[index] - length if index < len(self._changes) else None


def replacements(parents: dict[int, int]) -> list[tuple[int, int]]:
    """(dying beam, beam that takes its place too), given whom each beam goes on from.

    A beam that anybody goes on from survives as one of its children, so only the others move.
    """
    chosen = set(parents.values())
    dying = [beam for beam in sorted(parents) if beam not in chosen]
    seen: set[int] = set()
    further = []
    for parent in sorted(parents.values()):
        if parent in seen:
            further.append(parent)
        seen.add(parent)
    return list(zip(dying, further, strict=True))
