"""What became of drafts, in a line of text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def speculation_lines(summaries: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """A line on every run that verified drafts; none for the others."""
    for policy, summary in summaries.items():
        if summary.get("drafted_tokens"):
            yield (
                f"{policy}: {summary['drafted_tokens']:,} tokens were drafted and"
                f" {100 * summary['acceptance_rate']:.1f} % of them accepted; a decoding sequence"
                f" got {summary['decode_tokens_per_step']:.2f} tokens a step."
            )
