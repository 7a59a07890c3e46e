"""How llama.cpp sizes a context: cells of the caches from what the user asks for.

The rules are those of ``llama-context.cpp`` and ``llama-kv-cache-iswa.cpp`` (llama.cpp
``0c1e57098``).
"""

from __future__ import annotations

from dataclasses import dataclass

from sim.checks import require_positive

PADDING = 256
"""Cells of every cache come in multiples of this."""


def padded(n: int, multiple: int = PADDING) -> int:
    """``n`` rounded up to a multiple."""
    return -(-n // multiple) * multiple


@dataclass(frozen=True)
class ContextSizes:
    """What a context of llama.cpp reports. Tokens, cells, sequences.

    context: cells over all streams (``n_ctx``). per_sequence: cells of one stream
    (``n_ctx_seq``). batch, ubatch: tokens of a logical and of a physical batch. streams: 1 where
    all sequences share one array of cells, otherwise one a sequence.
    """

    context: int
    per_sequence: int
    batch: int
    ubatch: int
    sequences: int
    streams: int
    unified: bool

    def window_cells(self, window: int, swa_full: bool = False) -> int:
        """Cells per stream of the cache of the windowed layers.

        They hold the window of every sequence of the stream and one ubatch, but never more than
        the full cache; with ``swa_full`` they are as many as those of the full cache.
        """
        if swa_full:
            return self.per_sequence
        windows = window * (self.sequences if self.unified else 1)
        return padded(min(self.per_sequence, windows + self.ubatch))


def context_sizes(
    context: int, sequences: int = 1, ubatch: int = 512, batch: int = 2048, unified: bool = False
) -> ContextSizes:
    """The sizes of a context of ``context`` tokens for ``sequences`` sequences together.

    Without ``unified`` each sequence has its share, itself padded, so that the context can become
    larger than asked for. Raises `InputError` for a number below 1.
    """
    require_positive(context=context, sequences=sequences, ubatch=ubatch, batch=batch)
    batch = min(context, batch)
    share = padded(context) if unified else padded(padded(context) // sequences)
    return ContextSizes(
        context=share if unified else share * sequences,
        per_sequence=share,
        batch=batch,
        ubatch=min(batch, ubatch),
        sequences=sequences,
        streams=1 if unified else sequences,
        unified=unified,
    )
