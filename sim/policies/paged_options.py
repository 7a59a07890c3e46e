"""The options of `paged`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from workloads.plugins import check_options, option


@dataclass(frozen=True)
class PagedOptions:
    """How blocks are made and shared."""

    block_size: int = option(16, "tokens of a block", low=1)
    prefix_cache: bool = option(
        True, "full blocks can be found again; needs mamba_cache_mode where there are states"
    )
    reserve_full_isl: bool = option(
        True, "admit a sequence only when blocks for all its tokens are free, not for a first chunk"
    )
    mamba_cache_mode: Literal["none", "all", "align"] = option(
        "none", "states that are kept: none, of every block, or at the ends of prefill chunks"
    )
    hybrid: bool = option(
        True, "tables for every kind of layer; without, windows are forgotten and all is cached"
    )

    def __post_init__(self) -> None:
        check_options(self)
