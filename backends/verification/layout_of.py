"""Which layout an engine with this policy would give to its attention kernels."""

from __future__ import annotations

from typing import Any

from backends.layouts import Layout, cells, ranges, scan_of, tables_of
from sim.policies.base import Policy


def layout_of(policy: Policy, group: int) -> Layout:
    """The layout for a layer group: what a policy's own structures come down to.

    Blocks (``policy.layout``), arrays of cells that sequences are scanned in
    (``policy.caches``), one range of cells a sequence; else every cell by itself.
    """
    face: Any = policy
    if hasattr(policy, "layout"):
        layer = policy.groups[group].layer_ids[0]
        specs = face.layout.groups
        return tables_of(next(spec.block_size for spec in specs if layer in spec.layer_ids))
    if hasattr(policy, "caches"):
        return scan_of(face.caches[policy.cache_of(group)].size)
    return ranges if policy.name == "contiguous" else cells
