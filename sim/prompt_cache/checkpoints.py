"""When llama-server makes a context checkpoint, which it drops, and which it goes back to.

A windowed cache forgets what its window has passed, a recurrent one all but the last state. A
prompt that shares only a part of what a slot holds can go on from there if the memory still has
what the next token needs, or from a checkpoint made before that point; else everything is
processed again.

Source: ``tools/server/server-context.cpp`` of October 2026, ``pre_decode`` and
``create_checkpoint``.
"""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass

from sim.prompt_cache.prompt import Checkpoint

LAST_TOKENS = 4
"""Tokens at the end of a prompt that are processed by themselves, so as to stop before them."""


@dataclass(frozen=True, slots=True)
class CheckpointRule:
    """The rule for prompts processed in batches of ``batch`` tokens, ubatches of ``ubatch``.

    most: checkpoints of a slot. spacing: tokens that a checkpoint in the middle of a prompt keeps
    from the one before it.
    """

    most: int
    spacing: int
    batch: int
    ubatch: int

    def stop(
        self, start: int, end: int, length: int, starts: SequenceOf[int], made: list[Checkpoint]
    ) -> int:
        """Where a batch that would process tokens ``start`` to ``end`` of a prompt really ends.

        ``length``: of the prompt. ``starts``: where its user messages begin, rising. It ends where
        the next batch can begin with a checkpoint: at the last user message and at others that are
        far enough from the last checkpoint, a ubatch and 4 tokens before the end, and 4 before it.
        """
        stops = [length - min(self.batch, LAST_TOKENS + self.ubatch), length - LAST_TOKENS]
        stops += [at for at in starts if at == starts[-1] or self._is_far(at, made)]
        return min((at for at in stops if start < at < end), default=end)

    def is_due(
        self, start: int, end: int, length: int, starts: SequenceOf[int], made: list[Checkpoint]
    ) -> bool:
        """Whether a checkpoint is made before tokens ``start`` to ``end`` are processed."""
        near_end = length < end + self.ubatch
        if not near_end and start not in starts:
            return False
        is_last = bool(starts) and start == starts[-1]
        return near_end or is_last or self._is_far(start, made)

    def _is_far(self, at: int, made: list[Checkpoint]) -> bool:
        return not made or at > made[-1].tokens + self.spacing

    def add(self, made: list[Checkpoint], new: Checkpoint) -> None:
        """Append ``new``; drop what makes no room for it.

        When the list is nearly full, those of earlier requests that follow too closely on another
        go first, then the oldest. A checkpoint at the same place is replaced.
        """
        at, last = 0, -1
        while at < len(made) and len(made) + 1 >= self.most:
            old = made[at]
            if old.request != new.request and last >= 0 and old.tokens <= last + self.spacing:
                del made[at]
            else:
                last = old.tokens
                at += 1
        while len(made) >= self.most:
            del made[0]
        made[:] = [old for old in made if old.tokens != new.tokens]
        made.append(new)


def threshold_of(shared: int, length: int, window: int) -> int:
    """The position below which a memory must reach to go on after ``shared`` of ``length`` tokens.

    Where all of the prompt is shared its last token is processed again, and sees one more.
    """
    return max(0, shared - window - (shared >= length))


def latest(made: list[Checkpoint], shared: int, threshold: int) -> Checkpoint | None:
    """The last checkpoint from which ``shared`` tokens can be gone on from, or None."""
    for checkpoint in reversed(made):
        if checkpoint.high <= shared and (checkpoint.low < threshold or checkpoint.low == 0):
            return checkpoint
    return None


def resumed_at(checkpoint: Checkpoint, shared: int) -> tuple[int, int]:
    """Position and token from which processing goes on once ``checkpoint`` is restored."""
    position = min(shared, max(checkpoint.low + 1, checkpoint.high))
    return position, min(position, checkpoint.tokens)
