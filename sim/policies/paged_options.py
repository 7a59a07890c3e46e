"""The options of `paged`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from workloads.errors import InputError


@dataclass(frozen=True)
class PagedOptions:
    """How blocks are made and shared.

    block_size: tokens of a block. prefix_cache: whether full blocks can be found by others
    (and by their own sequence after a preemption); without effect where ``mamba_cache_mode``
    is none and the model is recurrent. reserve_full_isl: admit a sequence only when blocks
    for all its tokens are free, not just for its first chunk. mamba_cache_mode: which states
    of recurrent layers are kept, none, all (every block) or align (ends of prefill chunks).
    hybrid: with False windows are forgotten, and all attention layers are cached in full.
    """

    block_size: int = 16
    prefix_cache: bool = True
    reserve_full_isl: bool = True
    mamba_cache_mode: Literal["none", "all", "align"] = "none"
    hybrid: bool = True

    def __post_init__(self) -> None:
        if self.block_size < 1:
            raise InputError(f"paged.block_size: expected at least 1, got {self.block_size}")
