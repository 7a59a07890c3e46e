"""A history of times: one entry a check, and where its level changed.

Times of different machines cannot be compared, so an entry says on which it was made, and only
those of this machine's kind are looked at.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from reports.sweep import write_whole
from reports.timing import change_points
from workloads.errors import InputError

Entry = dict[str, Any]
"""``machine``: where it was measured. ``times``: medians in seconds, by benchmark."""


def machine() -> str:
    """What tells this machine's kind from others: system, processor, Python."""
    parts = platform.system(), platform.machine(), _processor(), platform.python_version()
    return " ".join(parts)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((x.partition(":")[2].strip() for x in lines if x.startswith("model name")), "")


@dataclass(frozen=True)
class History:
    """Entries, oldest first; one JSON object a line on disk."""

    entries: tuple[Entry, ...]

    @classmethod
    def load(cls, path: Path) -> History:
        """Read a file, nothing where there is none; raises `InputError` naming a damaged line."""
        if not path.exists():
            return cls(())
        entries = []
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
            try:
                entry = json.loads(line)
                entry["machine"], entry["times"]
            except (ValueError, KeyError, TypeError):
                raise InputError(f"{path}:{number}: expected machine and times") from None
            entries.append(entry)
        return cls(tuple(entries))

    def with_times(self, times: Mapping[str, Sequence[float]]) -> History:
        """With the medians of runs on this machine as the newest entry."""
        entry = {"machine": machine(), "times": {name: median(t) for name, t in times.items()}}
        return History((*self.entries, entry))

    def save(self, path: Path) -> None:
        """Write all of it in one go."""
        write_whole(
            path, "".join(f"{json.dumps(entry, sort_keys=True)}\n" for entry in self.entries)
        )

    def lines(self) -> Iterator[str]:
        """Every change of the level of a benchmark on this machine, in words."""
        here = machine()
        own = [entry["times"] for entry in self.entries if entry["machine"] == here]
        for name in dict.fromkeys(name for times in own for name in times):
            series = [times[name] for times in own if name in times]
            for change in change_points(series):
                yield (
                    f"history of {name}: from {change.before:.4g} to {change.after:.4g} s"
                    f" ({100 * (change.ratio - 1):+.1f} %) at entry {change.index + 1}"
                    f" of {len(series)}"
                )
