"""Alibaba Bailian's traces (alibaba-edu/qwen-bailian-usagetraces-anon, USENIX ATC'25).

Fields as the repository's README lists them. ``hash_ids`` are hashes of blocks of 16 tokens each
by itself, so two prompts share a prefix where all their ids up to there are equal.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from workloads.lengths import MAX_TOKENS
from workloads.plugins import option
from workloads.request import Request
from workloads.traces.base import LineTrace
from workloads.traces.blocks import BlockPaths
from workloads.traces.head import Head
from workloads.traces.lines import Lines

_FIELDS = ("chat_id", "parent_chat_id", "timestamp", "input_length", "output_length", "hash_ids")


@dataclass(frozen=True)
class Bailian(LineTrace):
    """Bailian traces: JSONL of chat_id, parent_chat_id, timestamp (s), lengths, turn, hash_ids.

    Every row holds its whole prompt and is sent when it was sent. Rows linked by
    ``parent_chat_id`` are turns of one conversation. Outputs have no ids and are taken to be
    nobody else's, although the next turn's prompt holds them under ids of its own.
    """

    name = "bailian"
    prefix_identity = "exact for prompts; lost: outputs that come back in the next prompt"

    block_size: int = option(16, "tokens of a block that has an id", low=1, high=MAX_TOKENS)

    @classmethod
    def sniff(cls, head: Head) -> bool:
        """The links between turns."""
        return not head.is_array and head.keys >= set(_FIELDS)

    def rows(self, lines: Lines) -> Iterator[Request]:
        """One request a line."""
        paths = BlockPaths(self.block_size)
        first: float | None = None
        conversations: dict[object, int] = {}
        for number, text in enumerate(lines):
            row = lines.object_of(text)
            lines.needs(row, *_FIELDS)
            at = lines.seconds(row, "timestamp")
            first = at if first is None else first
            prompt = lines.whole(row, "input_length", 0)
            output = lines.whole(row, "output_length", 0)
            path = paths.path(lines, row["hash_ids"], prompt, output)
            chat = lines.whole(row, "chat_id", -1, 2**63 - 1)
            parent = lines.whole(row, "parent_chat_id", -1, 2**63 - 1)
            turn = lines.whole(row, "turn", 0) if "turn" in row else 1
            conversation = conversations.get(parent, len(conversations))
            conversations[chat] = conversation
            yield Request(number, at - first, prompt, output, path, conversation, max(0, turn - 1))
