"""A slow model of the cells of a policy: a dictionary that says what each of them holds.

It follows a policy from outside, through what the policy tells everybody: copies are carried out,
rows are written, and after every step each sequence must find its own tokens where the policy says
they are. A policy that forgets a copy, gives a cell to two, or frees one too early is noticed.
"""

from __future__ import annotations

from typing import Any

from sim.compiled import is_a
from sim.errors import IntegrityError
from sim.policies.base import Policy
from sim.policies.llamacpp import LlamaPolicy
from sim.sequence import Sequence
from sim.step import Placement
from workloads.request import Request

Token = tuple[int, int]
"""What a cell holds: a branch of the prefix tree and the length of the prefix that ends there."""


class Shadow:
    """Contents of all cells of a policy, per layer group."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._cells: list[dict[int, Token | None]] = [{} for _ in policy.groups]
        if is_a(policy, LlamaPolicy):
            self._follow_states(policy)

    def _follow_states(self, policy: LlamaPolicy) -> None:
        """See what is saved of a sequence, so that it is known what a restored state brings."""
        save, restore = policy.save, policy.restore
        known: dict[int, tuple[Any, list[dict[int, Token | None]]]] = {}
        groups = range(len(policy.groups))

        def saving(seq: int, partial: bool = False) -> Any:
            state = save(seq, partial)
            held = [
                {at: self._cells[group].get(cell) for at, cell in _held(policy, seq, group)}
                for group in groups
            ]
            known[id(state)] = (state, held)
            return state

        def restoring(state: Any, seq: int) -> bool:
            restored = restore(state, seq)
            if restored and id(state) in known:
                saved = {part.cache for part in state.parts}
                for group, tokens in enumerate(known[id(state)][1]):
                    for at, cell in _held(policy, seq, group):
                        if _cache_name(policy, group) in saved:
                            self._cells[group][cell] = tokens[at]
            return restored

        policy.save, policy.restore = saving, restoring  # type: ignore[method-assign]

    def copy(self, placement: Placement) -> None:
        """Carry out the copies of a placement."""
        for copy in placement.copies:
            cells = self._cells[copy.group]
            held = [cells.get(int(src)) for src in copy.src]
            for dst, token in zip(copy.dst, held, strict=True):
                if token is not None:
                    cells[int(dst)] = token

    def write(self, seq: Sequence, start: int, n: int, void: int = 0) -> None:
        """``seq`` computed ``n`` tokens from ``start`` on; those that have a cell are written.

        void: how many of the last ones are drafts that nobody may ever find.
        """
        for group in range(len(self._policy.groups)):
            places = self._places(seq, group)
            for position in range(start, start + n):
                if position in places:
                    is_void = position >= start + n - void
                    written = None if is_void else token_at(seq, position)
                    self._cells[group][places[position]] = written

    def _places(self, seq: Sequence, group: int) -> dict[int, int]:
        positions, cells = self._policy.cells_of(seq, group)
        return dict(zip(positions.tolist(), cells.tolist(), strict=True))

    def check(self, seq: Sequence, computed: int) -> None:
        """Raise `IntegrityError` unless each token that the next of ``seq`` attends to is there.

        There: in the cell that the policy says holds it. A lossy policy may hold fewer tokens.
        """
        for index, group in enumerate(self._policy.groups):
            places = self._places(seq, index)
            for position in needed(group.kind, group.window, computed):
                cell = places.get(position)
                if cell is None and self._policy.lossy:
                    continue
                if cell is None:
                    raise IntegrityError(f"{seq!r} has no cell for position {position}")
                found = self._cells[index].get(cell)
                if found != token_at(seq, position):
                    raise IntegrityError(
                        f"{seq!r}: cell {cell} of group {index} holds {found},"
                        f" not position {position}"
                    )


def _held(policy: LlamaPolicy, seq: int, group: int) -> list[tuple[int, int]]:
    """Position and cell of all that ``seq`` holds for a layer group."""
    positions, cells = policy.cells_of(Sequence(seq, Request(0, 0.0, 1, 1)), group)
    return list(zip(positions.tolist(), cells.tolist(), strict=True))


def _cache_name(policy: LlamaPolicy, group: int) -> str:
    """The engine's name of the cache that serves a layer group."""
    cache = policy.cache_of(group)
    if cache < len(policy.caches):
        return policy.caches[cache].name
    assert policy.states is not None
    return policy.states.name


def needed(kind: str, window: int, computed: int) -> range:
    """Positions below ``computed`` that the token at position ``computed`` attends to."""
    if kind == "swa":
        return range(max(0, computed - window + 1), computed)
    if kind == "chunked":
        return range(computed // window * window, computed)
    return range(computed if kind == "recurrent" else 0, computed)


def token_at(seq: Sequence, position: int) -> Token:
    """The identity of the prefix of ``seq`` that ends with ``position``.

    A draft may reach beyond its end, on its last branch.
    """
    branch = next((branch for branch, end in seq.path if position < end), seq.path[-1][0])
    return branch, position + 1
