"""What the attention and the recurrent layers of a ubatch load from llama.cpp's caches."""

from __future__ import annotations

from sim.llamacpp.placed import Placed
from sim.model import LayerGroup
from sim.step import Count, Reads

QUERY_COLUMNS = 64
"""Columns of queries that ggml's CUDA attention kernel puts into one tile."""


class Scans:
    """Counts reads of the layer ``groups``, each of which the cache named in ``caches`` serves.

    shared_streams: whether sequences of a ubatch lie in one stream. snapshots: states that are kept
    for rolling back, beside the latest one.
    """

    def __init__(
        self,
        groups: tuple[LayerGroup, ...],
        caches: list[str],
        shared_streams: bool,
        snapshots: int,
    ) -> None:
        self._shared_streams = shared_streams
        self._snapshots = snapshots
        self._groups = [
            (name, group.kind == "recurrent", _sequences_of_a_tile(group))
            for group, name in zip(groups, caches, strict=True)
        ]

    def of(self, placed: Placed) -> tuple[Reads, ...]:
        """Of all ubatches of a decode."""
        reads = []
        for name, recurrent, tile in self._groups:
            if recurrent:
                reads.append(Reads(self._states(placed), 0, 0))
                continue
            cells = pairs = 0
            for ubatch, slot in zip(placed.ubatches, placed.slots[name], strict=True):
                cells += self._passes(ubatch.n_seq_ids, tile) * slot.n_kv
                pairs += ubatch.n_tokens * slot.n_kv
            reads.append(Reads(cells, pairs, 0))
        return tuple(reads)

    def of_run(self, widths: list[int], n_kv: dict[str, list[Count]]) -> tuple[Reads, ...]:
        """Of each step of a decode run, in ubatches of ``widths`` sequences whose states stay put.

        n_kv: by cache, cells that every ubatch scans: numbers, or arrays over the steps.
        """
        reads = []
        for name, recurrent, tile in self._groups:
            if recurrent:
                reads.append(Reads(2 * sum(widths), 0, 0))
                continue
            cells: Count = 0
            pairs: Count = 0
            for width, scanned in zip(widths, n_kv[name], strict=True):
                cells = cells + self._passes(width, tile) * scanned
                pairs = pairs + width * scanned
            reads.append(Reads(cells, pairs, 0))
        return tuple(reads)

    def _states(self, placed: Placed) -> int:
        """States loaded and stored: all that the graph touches, and what snapshots it writes."""
        states = 0
        for ubatch, slot in zip(placed.ubatches, placed.states, strict=True):
            older = min(ubatch.n_seq_tokens - 1, self._snapshots)
            states += 2 * slot.cells + ubatch.n_seqs * older
        return states

    def _passes(self, sequences: int, tile: int) -> int:
        """How often the ``n_kv`` cells of a stream are read for so many sequences of a ubatch."""
        return -(-sequences // tile) if self._shared_streams else sequences


def _sequences_of_a_tile(group: LayerGroup) -> int:
    """How many sequences' queries read the cells of a stream together.

    ggml's CUDA kernel reads them once for each 64 columns of queries, which are tokens times query
    heads of a K/V head, heads taken by 8, 4, 2 or 1 (``ggml-cuda/fattn.cu``, ``switch_ncols2`` and
    ``switch_ncols1``).
    """
    if group.kind == "recurrent":
        return 1
    per_head = group.heads // group.kv_heads
    return QUERY_COLUMNS // next(heads for heads in (8, 4, 2, 1) if per_head % heads == 0)
