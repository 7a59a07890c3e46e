"""What a replay of recordings of a real engine found."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Report:
    """Counts of one replay, or of several added up.

    traces: recordings replayed. operations: things asked of our objects, each compared with what
    the engine answered (engine steps, cache calls). mismatches: comparisons that differ.
    first: the first difference in words (what was asked, what the engine did, what we did).
    skipped: recordings that tell too little to be replayed, and why.
    """

    traces: int = 0
    operations: int = 0
    mismatches: int = 0
    first: str | None = None
    skipped: list[str] = field(default_factory=list)

    def add(self, other: Report) -> None:
        """Take over the counts of ``other``; the earlier first difference is kept."""
        self.traces += other.traces
        self.operations += other.operations
        self.mismatches += other.mismatches
        self.first = self.first if self.first is not None else other.first
        self.skipped += other.skipped

    def summary(self) -> str:
        """One line: ``N traces, M operations, K mismatches``."""
        line = f"{self.traces} traces, {self.operations} operations, {self.mismatches} mismatches"
        return line + (f" ({len(self.skipped)} not replayable)" if self.skipped else "")
