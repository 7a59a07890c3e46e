"""Our caches in the words of a llama.cpp recording: the JSON its recorder would have written."""

from __future__ import annotations

from typing import Any

from sim.llamacpp.cellmap import map_runs, owner_runs
from sim.llamacpp.cells import Cells
from sim.llamacpp.context import Context
from sim.llamacpp.observer import Observed, Observer
from sim.llamacpp.state import AttentionState, SavedState
from sim.llamacpp.ubatch import Ubatch

Json = dict[str, Any]


class EventLog(Observer):
    """Writes down what the caches tell, in the form and order of a recording's ``ev``."""

    def __init__(self) -> None:
        self.events: list[Json] = []

    def take(self) -> list[Json]:
        """The events since the last call."""
        events, self.events = self.events, []
        return events

    def on_split(self, ubatches: list[Ubatch]) -> None:
        """All ubatches of a split, before anything is searched."""
        self.events += [
            {
                "ev": "ubatch",
                "equal_seqs": int(u.equal_seqs),
                "n_tokens": u.n_tokens,
                "n_seq_tokens": u.n_seq_tokens,
                "n_seqs": u.n_seqs,
                "n_seqs_unq": len(u.seq_ids),
                "runs": [[sorted(seqs), first, n] for seqs, first, n in u.runs],
            }
            for u in ubatches
        ]

    def on_find_slot(self, cache: Observed, ubatch: int | None, streams: list[int]) -> None:
        """The streams that will be searched, as they are before."""
        states = []
        for stream in streams:
            shown = map_of(cache, stream)
            bounds = bounds_of(cache.streams[stream])
            states.append(shown | {"mm": bounds} if bounds else shown)
        self.events.append({"ev": "slot", "c": cache.name, "ub": ubatch, "st": states})

    def on_purge(self, cache: Observed, seq: int, first: int, last: int) -> None:
        """A purge; the recording does not say of which cache."""
        self.events.append({"ev": "purge", "seq": seq, "p": [first, last]})

    def on_stream_copy(self, cache: Observed, src: int, dst: int) -> None:
        """A copy of stream rows."""
        self.events.append({"ev": "copy", "src": src, "dst": dst})

    def on_k_shift(self, cache: Observed) -> None:
        """A K-shift."""
        self.events.append({"ev": "kshift"})


def map_of(cache: Observed, stream: int) -> Json:
    """One stream cell by cell, with its head."""
    cells = cache.streams[stream]
    return {
        "stream": stream,
        "n": cells.used_max_p1,
        "used": cells.used,
        "head": cache.heads[stream],
        "size": cache.size,
        "runs": [list(run) for run in map_runs(cells)],
    }


def bounds_of(cells: Cells) -> Json:
    """Lowest and highest position of every sequence present."""
    spans = cells.refresh()
    return {str(s): [spans.lowest(s), int(spans.end[s]) - 1] for s in cells.present()}


def maps_of(context: Context) -> Json:
    """The first stream of every attention cache; an empty cache shows nothing but its size."""
    return {
        name: map_of(cache, 0) if cache.streams[0].used else {"empty": True, "size": cache.size}
        for name, cache in context.attention.items()
    }


def cells_of(saved: SavedState) -> Json:
    """Saved cells with all their owners, in order: ``obs.cells`` and ``blob`` of a recording."""
    shown: Json = {}
    for part in saved.parts:
        if isinstance(part, AttentionState):
            shown[part.cache] = [
                [[list(seqs), pos, n] for seqs, pos, n in owner_runs(stream)]
                for stream in part.streams
            ]
        else:
            shown[part.cache] = [[pos, list(ids)] for pos, ids in part.cells]
    return shown
