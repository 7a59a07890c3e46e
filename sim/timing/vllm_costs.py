"""What a vLLM step costs beside the kernels of its layers: named, and stated with a source.

A layerwise profile times kernels one by one and eagerly. None of these numbers is fitted to a
measured run; what each is worth is listed in ``docs/validation.md``.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from typing import Any

from sim.timing.ring import ALONE, Ring

ACTIVATION_BYTES = 2
"""Bytes of a number in the residual stream and among the logits: vLLM serves in 16 bits."""


@dataclass(frozen=True)
class VllmCosts:
    """Costs of vLLM 0.19's ``GPUModelRunner``, in seconds, bytes and tokens.

    graph_gap, stream_gap: time between the end of a kernel and the start of the next one, within
    a CUDA graph and launched one by one ahead of time. A kernel of 2.9 us takes 3.4 and 3.8 us
    then: NVIDIA, "Getting Started with CUDA Graphs" (2019).
    graph_sizes: numbers of tokens for which graphs are captured; a step that fits into one is
    padded to it (``VllmConfig._set_cudagraph_sizes``). None with ``enforce_eager``.
    table_row: bytes of a row of the block table, which has room for the longest sequence. The
    rows of all sequences of a step are copied to the device in front of it
    (``BlockTable.commit_block_table``).
    ring: the GPUs that share every layer (tensor parallelism).
    """

    graph_gap: float = 0.5e-6
    stream_gap: float = 0.9e-6
    graph_sizes: tuple[int, ...] = ()
    table_row: int = 0
    ring: Ring = ALONE

    @classmethod
    def of(
        cls,
        max_seqs: int,
        max_batched_tokens: int,
        max_model_len: int,
        block_size: int = 16,
        eager: bool = False,
        ring: Ring = ALONE,
    ) -> VllmCosts:
        """The costs of an engine with these limits."""
        sizes = () if eager else graph_sizes(max_seqs, max_batched_tokens)
        return cls(
            graph_sizes=sizes,
            table_row=4 * -(-max_model_len // block_size),
            ring=ring,
        )

    def padded(self, tokens: float) -> float:
        """Rows that the linear layers compute for so many tokens."""
        index = bisect_left(self.graph_sizes, tokens)
        return self.graph_sizes[index] if index < len(self.graph_sizes) else tokens

    def gap(self, tokens: float) -> float:
        """Seconds between two kernels of a step with so many tokens."""
        in_graph = bool(self.graph_sizes) and tokens <= self.graph_sizes[-1]
        return self.graph_gap if in_graph else self.stream_gap

    def exchanged(self, tokens: float, sequences: Any, layers: int, hidden: int, vocab: int) -> Any:
        """Seconds in which the GPUs of a step tell each other their shares.

        An all-reduce of the residual stream behind the embedding and, in every layer, behind the
        attention and the MLP (``RowParallelLinear``, ``VocabParallelEmbedding``); an all-gather of
        the logits (``LogitsProcessor``).
        """
        rows = self.padded(tokens) * hidden * ACTIVATION_BYTES
        logits = sequences * vocab * ACTIVATION_BYTES
        return (2 * layers + 1) * self.ring.all_reduce(rows) + self.ring.all_gather(logits)


def graph_sizes(max_seqs: int, max_batched_tokens: int) -> tuple[int, ...]:
    """Numbers of tokens for which vLLM 0.19 captures CUDA graphs.

    1, 2, 4, then every 8 below 256 and every 16 from there, up to twice ``max_seqs`` and 512.
    """
    largest = min(2 * max_seqs, 512, max_batched_tokens)
    sizes = [1, 2, 4, *range(8, 256, 8), *range(256, 513, 16)]
    return tuple(size for size in sizes if size <= largest)
