"""The dump of cells that ``llama_kv_cache::find_slot`` logs before it searches.

For every sequence of the ubatch: a line with the stream's counters, a text with one symbol a cell
(``.`` empty, a digit its only sequence, ``M`` several), a text with the positions in columns of
five, and the bounds of every sequence in the stream.
"""

from __future__ import annotations

import re
from typing import Any

_STREAM = re.compile(
    r"find_slot: stream\[(\d+)\], n = +(\d+), used = +(\d+), head = +(\d+), size = +(\d+), "
    r"n_swa = +(\d+)"
)
_BOUNDS = re.compile(r"find_slot: stream\[\d+\] min\[(\d+)\] = +(-?\d+), max\[\d+\] = +(-?\d+)")
_COLUMN = 5

#: Sequence ids are printed next to each other: only those of one digit can be told apart.
MAX_SEQS = 10


class StreamDump:
    """One stream as dumped. n_swa: the window of its cache (0: none)."""

    def __init__(self, first_line: str) -> None:
        """Raises ValueError if this is not the line that begins a dump."""
        found = _STREAM.match(first_line)
        if found is None:
            raise ValueError(f"not the first line of a dump: {first_line!r}")
        stream, n, used, head, size, self.n_swa = map(int, found.groups())
        self.counters = {"stream": stream, "n": n, "used": used, "head": head, "size": size}
        self.bounds: dict[str, list[int]] = {}
        self._texts: list[str] = []

    @staticmethod
    def begins(line: str) -> bool:
        """Whether a dump begins with this line."""
        return _STREAM.match(line) is not None

    def takes(self, line: str) -> bool:
        """Take over one more line of the dump; False if it is none."""
        if len(self._texts) < 2:
            self._texts.append(line)
            return True
        found = _BOUNDS.match(line)
        if found is None:
            return False
        seq, lowest, highest = found.groups()
        self.bounds[seq] = [int(lowest), int(highest)]
        return True

    def as_map(self) -> dict[str, Any]:
        """Counters and runs of cells, as a recording shows them. Raises ValueError if garbled."""
        symbols = self._texts[0].translate(_NO_LAYOUT)
        rows = self._texts[1].strip("\n").split("\n")
        columns = len(symbols) // len(rows)
        if len(symbols) != self.counters["size"] or columns * len(rows) != len(symbols):
            raise ValueError(f"garbled dump of {self.counters}")
        runs: list[list[Any]] = []
        for cell in range(self.counters["n"]):
            symbol = symbols[cell]
            if symbol == ".":
                continue
            at = cell % columns * _COLUMN
            pos = int(rows[cell // columns][at : at + _COLUMN])
            if runs and _continues(runs[-1], cell, symbol, pos):
                runs[-1][3] += 1
            else:
                runs.append([cell, symbol, pos, 1])
        return self.counters | {"runs": runs}


_NO_LAYOUT = str.maketrans("", "", " *\n")


def _continues(run: list[Any], cell: int, symbol: str, pos: int) -> bool:
    first, held_by, first_pos, count = run
    return bool(symbol == held_by and cell == first + count and pos == first_pos + count)
