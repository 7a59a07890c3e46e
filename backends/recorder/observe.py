"""Looking at a live context without changing it: positions, state sizes, cells, cell maps.

The map of a cache comes from its search for cells, which is made to fail: a sequence that holds
nothing is restored from a state of as many cells as the cache has, while some are taken.
"""

from __future__ import annotations

from typing import Any

from backends.recorder.blob import Cells, after_architecture, cells_in, stream_bytes_of
from backends.recorder.context import LiveContext
from backends.recorder.crafted import unrestorable
from backends.recorder.events import read_events
from backends.recorder.log import Line
from sim.llamacpp.window import Window

#: The sequence that is restored in vain: no context has as many.
NOBODY = 255


class Observer:
    """What a recorder sees of one context.

    n_seqs: sequences it looks at, from 0. window: that of the cache ``swa``. stream_bytes: see
    `stream_bytes_of`.
    """

    def __init__(self, context: LiveContext, n_seqs: int, window: Window) -> None:
        self._context = context
        self._n_seqs = n_seqs
        self._window = window
        caches = context.caches
        self._attention = [name for name in caches if name != "rs"]
        layers = [caches[name]["layers"] for name in self._attention]
        self._recurrent_layers = caches["rs"]["layers"] - sum(layers) if "rs" in caches else 0
        self.single_stream = all(caches[name]["n_stream"] == 1 for name in self._attention)
        self.stream_bytes = 0
        self._header = context.seq_header()

    def learn_layout(self) -> None:
        """Find out `stream_bytes` from the context's own state, in which sequence 0 has cells."""
        data = self._context.state()
        at = after_architecture(data)
        self.stream_bytes = stream_bytes_of(
            data, at, list(self._context.caches), self._recurrent_layers
        )

    def events(self, lines: list[Line]) -> list[dict[str, Any]]:
        """The events in the log of an operation."""
        return read_events(lines, self.single_stream, len(self._attention) > 1)

    def observe(self, with_cells: bool, with_maps: bool) -> dict[str, Any]:
        """An ``obs`` record. with_cells: from the whole state. with_maps: by failing searches."""
        context, seqs = self._context, range(self._n_seqs)
        seen: dict[str, Any] = {
            "pos": [context.pos(seq) for seq in seqs],
            "size": [context.seq_size(seq) for seq in seqs],
        }
        if with_cells:
            cells = seen["cells"] = self._cells()
            if with_maps and self.single_stream and self._attention:
                seen["maps"] = self._maps(cells)
        context.log.take()
        return seen

    def saved_cells(self, data: bytes) -> Cells:
        """The cells in a sequence's saved state."""
        caches = list(self._context.caches)
        return cells_in(data, len(self._header), caches, self._recurrent_layers, self.stream_bytes)

    def _cells(self) -> Cells:
        data = self._context.state()
        at, caches = after_architecture(data), list(self._context.caches)
        return cells_in(data, at, caches, self._recurrent_layers, self.stream_bytes)

    def _maps(self, cells: Cells) -> dict[str, Any]:
        maps: dict[str, Any] = {}
        for index, name in enumerate(self._attention):
            size, (stream,) = self._context.caches[name]["cells"], cells[name]
            if not stream:
                maps[name] = {"empty": True, "size": size}
            elif name == "swa" and all_masked(stream, self._window):
                maps[name] = {"skip": "chunk-boundary"}
            else:
                maps[name] = self.map_of(index, size)
        return maps

    def map_of(self, index: int, size: int) -> dict[str, Any]:
        """Cell by cell, the attention cache ``index``, of ``size`` cells; it must not be empty."""
        context = self._context
        context.log.take()
        if context.restore_seq(unrestorable(self._header, index, size), NOBODY):
            raise RuntimeError("a state was restored that cannot have found room")
        (search,) = (e for e in self.events(context.log.take()) if e["ev"] == "slot")
        (stream,) = search["st"]
        return {key: value for key, value in stream.items() if key != "mm"}


def all_masked(stream: list[Any], window: Window) -> bool:
    """Whether a search could take every cell of the stream; True where that cannot be told.

    stream: runs ``[[seqs], first position, n]``. Cells of sequences that are not named (``[]``) are
    taken for those of one: its highest cell is the highest of whoever holds it.
    """
    highest: dict[tuple[int, ...], int] = {}
    for seqs, first, n in stream:
        if len(seqs) > 1:
            return False
        holder = tuple(seqs)
        highest[holder] = max(highest.get(holder, -1), first + n - 1)
    return all(window.last_masked(pos + 1) >= pos for pos in highest.values())
