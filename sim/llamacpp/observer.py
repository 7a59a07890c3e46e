"""What the caches tell whoever listens, in the order in which the engine does things."""

from __future__ import annotations

from typing import Protocol

from sim.llamacpp.cells import Cells
from sim.llamacpp.ubatch import Ubatch


class Observed(Protocol):
    """An attention cache as listeners see it: see `sim.llamacpp.streams.Streams`."""

    name: str
    size: int
    streams: list[Cells]
    heads: list[int]


class Observer:
    """Listens to nothing; override what is wanted. Calls must not change the caches."""

    def on_split(self, ubatches: list[Ubatch]) -> None:
        """A batch was split; the search for cells of each ubatch follows."""

    def on_find_slot(self, cache: Observed, ubatch: int | None, streams: list[int]) -> None:
        """``cache`` is about to search for ubatch number ``ubatch`` (None: restored state)."""

    def on_purge(self, cache: Observed, seq: int, first: int, last: int) -> None:
        """``seq`` loses its positions first .. last, as later ones have been overwritten."""

    def on_stream_copy(self, cache: Observed, src: int, dst: int) -> None:
        """The rows of a whole stream are copied."""

    def on_k_shift(self, cache: Observed) -> None:
        """The K rows of ``cache`` are rotated by what pends."""


#: Nobody listens.
SILENT = Observer()
