"""Groups that need only the latest tokens: sliding windows and chunked local attention."""

from __future__ import annotations

from sim.paging.groups import Blocks, Group, Range, Table
from sim.paging.keys import parts_of
from workloads.request import PrefixPath


class WindowGroup(Group):
    """Sliding-window attention: a token attends to the last ``window`` tokens, its own included."""

    frees = True

    def skipped(self, computed: int) -> int:
        """Those before the window of the next token."""
        return max(0, computed - self.window + 1)

    def find(self, path: PrefixPath, longest: int, alignment: int) -> list[Blocks]:
        """From right to left: the first run of cached blocks that fills a window.

        What is before it stays null. Where there is none, the run that reaches block 0 counts,
        however short. A run may only end at a multiple of ``alignment``.
        """
        wanted = max(-(-(self.window - 1) // self.size), 1)
        every, n = alignment // self.size, len(self.peers)
        end = longest // self.size // every * every
        first = max(end - wanted, 0)
        found = self._all(path, first, end)
        if 0 in found:
            found = self._all(path, 0, end)
            while True:
                first = max(end - wanted, 0)
                window = found[first * n : end * n]
                if 0 not in window:
                    break
                gap = end - 1 - window[::-1].index(0) // n
                while gap and 0 in found[(gap - 1) * n : gap * n]:
                    gap -= 1
                end = gap // every * every
            found = window
        return [[0] * first + column for column in self._columns(found, end - first)]

    def _all(self, path: PrefixPath, first: int, stop: int) -> Blocks:
        """All peers' cached blocks of entries ``first .. stop - 1``, 0 for none."""
        n = len(self.peers)
        found: Blocks = []
        for branch, start, until in parts_of(path, self.size, first, stop):
            found += self.pool.find(self.shelf(branch), start * n, until * n)
        return found

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

    def find(self, path: PrefixPath, longest: int, alignment: int) -> list[Blocks]:
        """Blocks before the chunk of the last token count as found; then left to right."""
        del alignment
        first = self.skipped(longest) // self.size
        found = self._leading(path, first, longest // self.size)
        columns = self._columns(found, len(found) // len(self.peers))
        return [[0] * first + column for column in columns]
