"""llama.cpp's log, read as the events of a recording: splits, searches, purges, shifts, copies."""

from __future__ import annotations

import re
from typing import Any

from backends.recorder.dump import StreamDump
from backends.recorder.log import ERROR, WARN, Line

Event = dict[str, Any]

_ADDED = "ubatch_add: added ubatch to split:"
_FIELD = re.compile(r"ubatch_print: +(equal_seqs|n_tokens|n_seq_tokens|n_seqs|n_seqs_unq) += (\d+)")
_TOKEN = re.compile(r"ubatch_print: +\d+: .*pos = +(-?\d+), n_seq_id = +\d+, seq_id = \[([^]]*)\]")
_END_OF_TOKENS = re.compile(r"ubatch_print: +\]$")
_PURGE = re.compile(r"apply_ubatch: purging positions \[(-?\d+), (-?\d+)\] of sequence (\d+)")
_COPY = re.compile(r"update: copying KV buffer: stream (\d+) to stream (\d+)")
_SHIFT = "update: applying K-shift"


def read_events(lines: list[Line], unified: bool, windowed: bool) -> list[Event]:
    """The events in the log of one operation.

    unified: the context has a single stream, which a search dumps once for every sequence of the
    ubatch. windowed: attention is in two caches, of which the one with a window is ``swa``.
    """
    reader = _Reader(unified, windowed)
    for line in lines:
        reader.read(line)
    reader.end_dump()
    return reader.events


class _Reader:
    def __init__(self, unified: bool, windowed: bool) -> None:
        self.events: list[Event] = []
        self._unified = unified
        self._windowed = windowed
        #: Ubatches of the last split, and how many searches each cache has made for them.
        self._split: list[Event] = []
        self._searched: dict[str, int] = {}
        #: An ubatch whose tokens are being listed: None outside of a listing.
        self._ubatch: Event | None = None
        self._dump: StreamDump | None = None
        #: Dumps of the search being read, and how many it has.
        self._dumps: list[StreamDump] = []

    def read(self, line: Line) -> None:
        text = line.text.rstrip("\n")
        if self._dump is not None:
            if self._dump.takes(line.text):
                return
            self.end_dump()
        if StreamDump.begins(text):
            self._dump = StreamDump(text)
        elif text == _ADDED:
            self._begin_ubatch()
        elif self._ubatch is not None:
            self._read_ubatch(text)
        elif line.level in (WARN, ERROR):
            level = "warn" if line.level == WARN else "err"
            self.events.append({"ev": "log", "lvl": level, "msg": text.strip()})
        elif found := _PURGE.match(text):
            first, last, seq = map(int, found.groups())
            self.events.append({"ev": "purge", "seq": seq, "p": [first, last]})
        elif found := _COPY.match(text):
            src, dst = map(int, found.groups())
            self.events.append({"ev": "copy", "src": src, "dst": dst})
        elif text == _SHIFT:
            self.events.append({"ev": "kshift"})

    # ---- ubatches

    def _begin_ubatch(self) -> None:
        if self._searched:
            self._split, self._searched = [], {}
        self._ubatch = {"ev": "ubatch", "runs": []}

    def _read_ubatch(self, text: str) -> None:
        ubatch = self._ubatch
        assert ubatch is not None
        if found := _FIELD.match(text):
            ubatch[found[1]] = int(found[2])
        elif found := _TOKEN.match(text):
            pos = int(found[1])
            seqs = [seq for seq, mark in enumerate(found[2]) if mark != "."]
            last = ubatch["runs"][-1] if ubatch["runs"] else None
            if last is not None and last[0] == seqs and pos == last[1] + last[2]:
                last[2] += 1
            else:
                ubatch["runs"].append([seqs, pos, 1])
        elif _END_OF_TOKENS.match(text):
            ubatch["runs"] = ubatch.pop("runs")  # after the counts, as they are read
            self.events.append(ubatch)
            self._split.append(ubatch)
            self._ubatch = None

    # ---- searches

    def end_dump(self) -> None:
        """A stream has been dumped; with the last one of a search, the search is an event."""
        if self._dump is None:
            return
        self._dumps.append(self._dump)
        self._dump = None
        cache = "kv" if not self._windowed else ("swa" if self._dumps[0].n_swa else "base")
        searched = self._searched.get(cache, 0)
        index = searched if self._split else None
        expected = 1 if index is None else self._split[index]["n_seqs_unq"]
        if len(self._dumps) < expected:
            return
        self._searched[cache] = searched + 1
        # A single stream is dumped again for every sequence, unchanged.
        dumps = self._dumps[:1] if self._unified else self._dumps
        states = [d.as_map() | ({"mm": d.bounds} if d.bounds else {}) for d in dumps]
        self.events.append({"ev": "slot", "c": cache, "ub": index, "st": states})
        self._dumps = []
