"""Prompts that have lost their slot, with their whole state, in host memory.

Source: llama-server's ``server_prompt_cache`` (``tools/server/server-task.cpp``, October 2026).
An entry is one sequence's complete state and its checkpoints; entries share nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sim.llamacpp.state import SavedState
from sim.prompt_cache.prompt import Prompt
from workloads.request import PrefixPath

WORTH_TAKING = 0.25
"""Share of an entry that a new prompt must have in common with it to get it."""


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """A prompt, its state, and the bytes of both, checkpoints included."""

    prompt: Prompt
    state: SavedState
    nbytes: int


class HostPromptCache:
    """States in the order in which they were saved, at most ``limit`` bytes of them (None: any).

    room: tokens that are kept in any case; more are where bytes allow it.
    nbytes: what all entries take now. peak: the most they ever took.
    """

    def __init__(self, limit: int | None, room: int) -> None:
        self.limit = limit
        self.room = room
        self.entries: list[Entry] = []
        self.nbytes = 0
        self.peak = 0

    def store(self, prompt: Prompt, size: int, save: Callable[[], SavedState]) -> int:
        """Save a prompt whose state has ``size`` bytes; the bytes of the state, 0 if it is not.

        It is not if an entry contains it, or if it alone is over the limit. Entries that it
        contains go, and then the oldest until there is room.
        """
        if any(entry.prompt.contains(prompt) for entry in self.entries):
            return 0
        new = size + prompt.checkpoint_bytes
        if self.limit is not None and new > self.limit:
            return 0
        for entry in [entry for entry in self.entries if prompt.contains(entry.prompt)]:
            self._remove(entry)
        while self.limit is not None and self.entries and self.nbytes + new > self.limit:
            self._remove(self.entries[0])
        self.entries.append(Entry(prompt.copy(), save(), new))
        self.nbytes += new
        self.peak = max(self.peak, self.nbytes)
        return size

    def take(self, prompt: Prompt, path: PrefixPath, length: int) -> Entry | None:
        """Take out the entry that serves ``length`` tokens along ``path`` better than ``prompt``.

        Better: more of the new prompt is there, and more of the entry is used. Later entries must
        beat earlier ones in both. None if no entry does.
        """
        best = None
        shared = prompt.shared_with(path, length)
        kept, similarity = (shared / prompt.tokens if prompt.tokens else -1.0), shared / length
        for entry in self.entries:
            shared = entry.prompt.shared_with(path, length)
            used = shared / entry.prompt.tokens
            if used >= WORTH_TAKING and used > kept and shared / length > similarity:
                best, kept, similarity = entry, used, shared / length
        if best is not None:
            self._remove(best)
        return best

    def trim(self) -> None:
        """Drop the oldest entries while there are more tokens than the limits allow."""
        tokens = sum(entry.prompt.tokens for entry in self.entries)
        room = self.room
        if self.limit is not None:
            room = max(room, int(self.limit / max(1.0, self.nbytes / max(1, tokens))))
        while len(self.entries) > 1 and tokens > room:
            tokens -= self.entries[0].prompt.tokens
            self._remove(self.entries[0])

    def _remove(self, entry: Entry) -> None:
        self.entries.remove(entry)
        self.nbytes -= entry.nbytes
