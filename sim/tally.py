"""What the steps of a run add up to."""

from __future__ import annotations

NAMES = (
    "steps",
    "prompt_tokens",
    "output_tokens",
    "computed_tokens",
    "preemptions",
    "recomputed_tokens",
    "alloc_failures",
    "swapped_bytes",
    "cow_bytes",
    "defrag_bytes",
    "moved_bytes",
    "shifted_bytes",
)


class Tally:
    """Tokens, events and bytes moved; an attribute for each of `NAMES`."""

    def __init__(self) -> None:
        self.steps = 0
        self.prompt_tokens = 0
        self.output_tokens = 0
        self.computed_tokens = 0
        self.preemptions = 0
        self.recomputed_tokens = 0
        self.alloc_failures = 0
        self.swapped_bytes = 0
        self.cow_bytes = 0
        self.defrag_bytes = 0
        self.moved_bytes = 0
        self.shifted_bytes = 0

    def by_name(self) -> dict[str, int]:
        """All of them."""
        return {name: getattr(self, name) for name in NAMES}

    def add(self, other: Tally) -> None:
        """Count what ``other`` counted too."""
        for name in NAMES:
            setattr(self, name, getattr(self, name) + getattr(other, name))
