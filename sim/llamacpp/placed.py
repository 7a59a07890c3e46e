"""Where tokens went: the cells and states of the ubatches of a decode."""

from __future__ import annotations

from dataclasses import dataclass, field

from sim.llamacpp.cells import Cellset
from sim.llamacpp.ubatch import Tokens, Ubatch


@dataclass(slots=True)
class Slot:
    """The cells of one ubatch: per stream touched, (stream, its tokens, their cells in order).

    n_kv: cells that attention of this ubatch scans, a stream (set when the ubatch is placed).
    """

    parts: list[tuple[int, Tokens, Cellset]]
    n_kv: int = 0


@dataclass(frozen=True, slots=True)
class StateSlot:
    """The states of one ubatch: its s-th sequence set works on cell ``first + s``.

    copies: (source, target) cells whose state moves before the ubatch runs; source -1 means a new,
    zeroed state. A source of k*size + i is the k-th snapshot of cell i. cells: how many states the
    graph loads and stores, from the first cell to the last one that the search touched; those
    behind the ubatch's own are carried over as they are (``llm_graph_context::build_rs``).
    """

    first: int
    copies: list[tuple[int, int]]
    cells: int


@dataclass(slots=True)
class Placed:
    """Where the tokens of a decode went.

    ubatches: how the batch was split. slots: per attention cache, the cells of every ubatch.
    states: the recurrent cells of every ubatch (empty without a recurrent cache).
    """

    ubatches: list[Ubatch]
    slots: dict[str, list[Slot]] = field(default_factory=dict)
    states: list[StateSlot] = field(default_factory=list)
