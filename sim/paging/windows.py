"""Groups that need only the latest tokens: sliding windows and chunked local attention."""

from __future__ import annotations

from collections.abc import Sequence

from sim.paging.groups import Blocks, Group, Piece, Table
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
        stop = longest // self.size
        wanted = -(-(self.window - 1) // self.size)
        every = alignment // self.size
        if 0 < wanted <= stop and stop % every == 0:
            tail = self._columns(peers, path, stop - wanted, stop)
            if all(map(all, tail)):
                return [[0] * (stop - wanted) + column for column in tail]
        columns = self._columns(peers, path, 0, stop)
        run = 0
        for i in range(stop - 1, -1, -1):
            if not columns[0][i] or not all(column[i] for column in columns):
                run = 0
            elif run or (i + 1) % every == 0:
                run += 1
                if run >= wanted:
                    return [[0] * i + column[i : i + run] for column in columns]
        run -= run % every
        return [column[:run] for column in columns]

    def _columns(
        self, peers: Sequence[Group], path: PrefixPath, first: int, stop: int
    ) -> list[Blocks]:
        """For every peer the cached blocks of entries ``first .. stop - 1``, 0 for none."""
        keys = [key for peer in peers for key in peer.keys(path, first, stop)]
        found, n = self.pool.find_each(keys), stop - first
        return [found[i * n : (i + 1) * n] for i in range(len(peers))]

    def drop(self, table: Table, computed: int) -> list[Piece]:
        """The whole blocks before the window."""
        first = table.live
        stop = min(self.skipped(computed) // self.size, len(table.blocks))
        if stop <= first:
            return []
        gone = table.blocks[first:stop]
        table.blocks[first:stop] = [0] * (stop - first)
        table.live = stop
        return [(first, gone)]

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
        stop = longest // self.size
        first = self.skipped(longest) // self.size
        tables = []
        for peer in peers:
            tables.append([0] * first + peer._leading(path, first, stop))
            stop = len(tables[-1])
        return [table[:stop] for table in tables]
