"""Whether a sequence that was refused room would be refused again."""

from __future__ import annotations

from sim.paging.holding import Holding
from sim.sequence import Sequence
from workloads.request import PrefixPath


class Refusal:
    """Who was refused last, and how many free blocks that would have taken.

    least: as many it takes at the least while sequences decode and its prefix in the cache does
    not grow. With less of the prefix left it takes more new blocks; but what it takes of the
    prefix that is free is no longer counted, and may be more.
    """

    __slots__ = ("least", "need", "seq")

    def __init__(self, seq: Sequence | None, need: int, least: int) -> None:
        self.seq = seq
        self.need = need
        self.least = least


class Writers:
    """The branches on which decoding sequences go on, and how many do on each.

    Only those that others may have too. What stands there may be found by others from now on.
    """

    def __init__(self) -> None:
        self._on: dict[int, int] = {}

    def came(self, seq: Sequence, holding: Holding) -> None:
        """``seq`` holds something that it did not hold before."""
        on, path, i = self._on, seq.path, len(seq.path)
        while i and path[i - 1][1] >= seq.prompt:
            i -= 1
            branch = path[i][0]
            if branch >= 0:
                holding.writes.append(branch)
                on[branch] = on.get(branch, 0) + 1

    def left(self, holding: Holding) -> None:
        """Who had ``holding`` no longer writes."""
        on = self._on
        for branch in holding.writes:
            if on[branch] == 1:
                del on[branch]
            else:
                on[branch] -= 1

    def are_on(self, path: PrefixPath) -> bool:
        """Whether anybody writes on one of these branches."""
        on = self._on
        return any(branch in on for branch, _ in path)
