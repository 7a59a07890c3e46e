"""Where FlashAttention-2 stops to cut the sequences of a decode step into pieces.

vLLM 0.19 takes FlashAttention-2 on NVIDIA GPUs but Hopper (FlashAttention-3) and the B200's
generation (FlashInfer): ``CudaPlatform`` and ``get_flash_attn_version``. Its decode kernel has one
thread block a sequence and KV head. Only while those leave more than a fifth of twice the
multiprocessors idle are long sequences split over several (``num_splits_heuristic`` in
``flash_api.cpp``). From there on the longest sequence of a batch is a tail of its own.
"""

from __future__ import annotations

from math import ceil

from sim.groups import LayerGroup
from sim.hardware import HardwareSheet

BUSY = 0.8
"""Share of the places for thread blocks from which nothing is split."""
PLACES = 2
"""Thread blocks that are counted to fill one multiprocessor."""
OTHER_KERNELS = (9, 10)
"""Major compute capabilities on which vLLM takes another kernel."""


def unsplit_from(
    hardware: HardwareSheet, group: LayerGroup, ranks: int, graph_sizes: tuple[int, ...]
) -> int | None:
    """The least number of decoding sequences that are not split, or None if there is no such.

    ranks: GPUs that share the KV heads. graph_sizes: a CUDA graph is captured, and the splits with
    it, for the number of sequences that a step is padded to. Without grouped queries nothing is
    ever split, so that there is no change either.
    """
    processors, capability = hardware.multiprocessors, hardware.compute_capability
    if processors is None or capability is None or group.heads == group.kv_heads:
        return None
    if capability < 8 or int(capability) in OTHER_KERNELS:
        return None
    kv_heads = max(1, group.kv_heads // ranks)
    least = ceil(BUSY * PLACES * processors / kv_heads)
    if not graph_sizes or least > graph_sizes[-1]:
        return least
    return 1 + max((size for size in graph_sizes if size < least), default=0)
