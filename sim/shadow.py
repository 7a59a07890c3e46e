"""A slow model of the cells of a policy: a dictionary that says what each of them holds.

It follows a policy from outside, through what the policy tells everybody: copies are carried out,
rows are written, and after every step each sequence must find its own tokens where the policy says
they are. A policy that forgets a copy, gives a cell to two, or frees one too early is noticed.
"""

from __future__ import annotations

from sim.errors import IntegrityError
from sim.policies.base import Policy
from sim.sequence import Sequence
from sim.step import Placement

Token = tuple[int, int]
"""What a cell holds: a branch of the prefix tree and the length of the prefix that ends there."""


class Shadow:
    """Contents of all cells of a policy, per layer group."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._cells: list[dict[int, Token]] = [{} for _ in policy.groups]

    def copy(self, placement: Placement) -> None:
        """Carry out the copies of a placement."""
        for copy in placement.copies:
            cells = self._cells[copy.group]
            held = [cells.get(int(src)) for src in copy.src]
            for dst, token in zip(copy.dst, held, strict=True):
                if token is not None:
                    cells[int(dst)] = token

    def write(self, seq: Sequence, start: int, n: int) -> None:
        """``seq`` computed ``n`` tokens from ``start`` on; those that have a cell are written."""
        for group in range(len(self._policy.groups)):
            places = self._places(seq, group)
            for position in range(start, start + n):
                if position in places:
                    self._cells[group][places[position]] = token_at(seq, position)

    def _places(self, seq: Sequence, group: int) -> dict[int, int]:
        positions, cells = self._policy.cells_of(seq, group)
        return dict(zip(positions.tolist(), cells.tolist(), strict=True))

    def check(self, seq: Sequence, computed: int) -> None:
        """Raise `IntegrityError` unless each token that the next of ``seq`` attends to is there.

        There: in the cell that the policy says holds it.
        """
        for index, group in enumerate(self._policy.groups):
            places = self._places(seq, index)
            for position in needed(group.kind, group.window, computed):
                cell = places.get(position)
                if cell is None:
                    raise IntegrityError(f"{seq!r} has no cell for position {position}")
                found = self._cells[index].get(cell)
                if found != token_at(seq, position):
                    raise IntegrityError(
                        f"{seq!r}: cell {cell} of group {index} holds {found},"
                        f" not position {position}"
                    )


def needed(kind: str, window: int, computed: int) -> range:
    """Positions below ``computed`` that the token at position ``computed`` attends to."""
    if kind == "swa":
        return range(max(0, computed - window + 1), computed)
    if kind == "chunked":
        return range(computed // window * window, computed)
    return range(computed if kind == "recurrent" else 0, computed)


def token_at(seq: Sequence, position: int) -> Token:
    """The identity of the prefix of ``seq`` that ends with ``position``."""
    branch = next(branch for branch, end in seq.path if position < end)
    return branch, position + 1
