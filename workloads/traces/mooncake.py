"""Mooncake's public traces (kvcache-ai/Mooncake, FAST'25 release)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from operator import ne
from typing import Any

from workloads.lengths import MAX_TOKENS
from workloads.plugins import option
from workloads.request import PrefixPath, Request
from workloads.traces.base import LineTrace
from workloads.traces.lines import Lines, shortened

_FIELDS = frozenset({"timestamp", "input_length", "output_length", "hash_ids"})
_CHECKED_IDS = 10**6
_OUTPUTS = 2**62  # branches of outputs start where hash ids end


@dataclass(frozen=True)
class Mooncake(LineTrace):
    """Mooncake traces: JSONL of timestamp (ms), input_length, output_length, hash_ids.

    A hash id stands for one block of the prompt and all before it: equal id, equal prefix. The
    last block may be a part of one. So hash ids are the branches of the prefix path; the output
    has a private one. Whether ids do chain is checked on the first million of them. Arrivals
    count from the first row; a row without a prompt or an output token is refused.
    """

    name = "mooncake"
    prefix_identity = "exact"

    block_size: int = option(512, "tokens of a block that has an id", low=1, high=MAX_TOKENS)

    def rows(self, lines: Lines) -> Iterator[Request]:
        """One request a line."""
        first: float | None = None
        parents: dict[int, int] = {}
        for number, text in enumerate(lines):
            row = lines.object_of(text)
            lines.keys(row, _FIELDS)
            # Milliseconds are subtracted as they stand, so that equal gaps stay equal.
            lines.seconds(row, "timestamp", 1e-3)
            if first is None:
                first = row["timestamp"]
            prompt = lines.whole(row, "input_length", 1)
            output = lines.whole(row, "output_length", 1)
            blocks = self._blocks(lines, row["hash_ids"], prompt)
            _check_chain(lines, row["hash_ids"], parents)
            path = (*blocks, (_OUTPUTS + number, prompt + output))
            yield Request(number, (row["timestamp"] - first) / 1e3, prompt, output, path)

    def _blocks(self, lines: Lines, ids: Any, prompt: int) -> PrefixPath:
        """The part of the path that covers the prompt."""
        if type(ids) is not list or set(map(type, ids)) != {int}:
            raise lines.error(f"hash_ids: expected a list of whole numbers, got {shortened(ids)}")
        if min(ids) < 0 or max(ids) >= _OUTPUTS:
            raise lines.error(
                f"hash_ids: expected numbers from 0 below 2**62, got {shortened(ids)}"
            )
        blocks = -(-prompt // self.block_size)
        if len(ids) != blocks:
            raise lines.error(
                f"hash_ids: expected {blocks} blocks of {self.block_size} for input_length "
                f"{prompt}, got {len(ids)}"
            )
        ends = range(self.block_size, prompt, self.block_size)
        return (*zip(ids, ends, strict=False), (ids[-1], prompt))


def _check_chain(lines: Lines, ids: list[int], parents: dict[int, int]) -> None:
    """Raise `InputError` where an id has another one in front of it than the last time."""
    before = [-1, *ids[:-1]]
    learn = parents.setdefault if len(parents) < _CHECKED_IDS else parents.get
    if any(map(ne, map(learn, ids, before), before)):
        wrong = next(i for i, b in zip(ids, before, strict=True) if parents[i] != b)
        raise lines.error(f"hash_ids: expected equal ids after equal prefixes only, not {wrong}")
