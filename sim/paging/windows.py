"""Groups that need only the latest tokens: sliding windows and chunked local attention."""

from __future__ import annotations

from collections.abc import Sequence

from sim.paging.groups import Blocks, Group, Range, Table
from sim.paging.keys import parts_of
from workloads.request import PrefixPath


class WindowGroup(Group):
    """Sliding-window attention: a token attends to the last ``window`` tokens, its own included."""

    frees = True

    def skipped(self, computed: int) -> int:
        """Those before the window of the next token."""
        return max(0, computed - self.window + 1)

    def find(
        self, peers: Sequence[Group], path: PrefixPath, longest: int, alignment: int
    ) -> list[Blocks]:
        """From right to left: the first run of cached blocks that fills a window.

        What is before it stays null. Where there is none, the run that reaches block 0 counts,
        however short. A run may only end at a multiple of ``alignment``.
        """
        wanted = max(-(-(self.window - 1) // self.size), 1)
        every = alignment // self.size
        end = longest // self.size // every * every
        first = max(end - wanted, 0)
        columns = self._columns(peers, path, first, end)
        if _last_gap(columns, 0, end - first) is None:
            return [[0] * first + column for column in columns]
        columns = self._columns(peers, path, 0, end)
        while True:
            first = max(end - wanted, 0)
            gap = _last_gap(columns, first, end)
            if gap is None:
                return [[0] * first + column[first:end] for column in columns]
            end = gap // every * every

    def _columns(
        self, peers: Sequence[Group], path: PrefixPath, first: int, stop: int
    ) -> list[Blocks]:
        """For every peer the cached blocks of entries ``first .. stop - 1``, 0 for none."""
        parts = parts_of(path, self.size, first, stop)
        columns: list[Blocks] = []
        for peer in peers:
            column: Blocks = []
            for branch, start, until in parts:
                column += self.pool.find(peer.shelf(branch), start, until)
            columns.append(column)
        return columns

    def drops(self, table: Table, computed: int) -> list[Range]:
        """The whole blocks before the window."""
        stop = min(self.skipped(computed) // self.size, len(table.blocks))
        return [(table.live, stop)] if stop > table.live else []

    def take_out(self, table: Table, first: int, stop: int) -> Blocks:
        """These are leading entries."""
        table.live = stop
        return super().take_out(table, first, stop)

    def next_drop(self, table: Table) -> int:
        """When the next block is before the window."""
        return (table.live + 1) * self.size + self.window - 1

    def most_blocks(self, tokens: int, chunk: int) -> int:
        """A window before a chunk, and as it need not begin with a block, one more.

        vLLM's ``SlidingWindowSpec.max_memory_usage_bytes``.
        """
        whole = super().most_blocks(tokens, chunk)
        return min(whole, -(-(self.window - 1 + chunk) // self.size) + 1)

    def held(self, table: Table) -> Blocks:
        """What lies behind the leading null entries."""
        return table.blocks[table.live :]


class ChunkGroup(WindowGroup):
    """Chunked local attention: a token attends to its own chunk of ``window`` tokens."""

    def skipped(self, computed: int) -> int:
        """The whole chunks."""
        return computed // self.window * self.window

    def next_drop(self, table: Table) -> int:
        """When the chunks up to the end of the next block are whole."""
        return -(-(table.live + 1) * self.size // self.window) * self.window

    def find(
        self, peers: Sequence[Group], path: PrefixPath, longest: int, alignment: int
    ) -> list[Blocks]:
        """Blocks before the chunk of the last token count as found; then left to right."""
        del alignment
        first = self.skipped(longest) // self.size
        tables = self._leading(peers, path, first, longest // self.size)
        return [[0] * first + table for table in tables]


def _last_gap(columns: list[Blocks], first: int, stop: int) -> int | None:
    """Where the last gap in any of the columns begins that reaches into these entries."""
    found: int | None = None
    for column in columns:
        if 0 not in column:
            continue
        for entry in range(stop - 1, first - 1, -1):
            if not column[entry]:
                while entry and not column[entry - 1]:
                    entry -= 1
                found, stop = entry, entry
                break
    return found
