"""What stands latest in its prompt first."""

from __future__ import annotations

from sim.eviction.classes import ByClass


class LengthAware(ByClass):
    """The entry that completes the longest prefix; of those the least recently used.

    Mooncake (FAST'25, section on cache policies) evicts what occurs later in requests first,
    because fewer requests can share it.
    """

    name = "length-aware"

    def class_of_new(self, end: int) -> int:
        """Late ones are low."""
        return -end

    def class_after_hit(self, before: int) -> int:
        """Its place in the prompt stays."""
        return before
