"""A few kernels beside what bounds them: copies and decode attention against device copies.

Everything is timed in the same run and in the same way (events, inputs rotated, the L2 cache
emptied before each call), the reference first. Where PyTorch is installed, its
``scaled_dot_product_attention`` on the same contiguous shape is timed too.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from backends.arrays import Backend
from backends.calibrate.benches import Benches
from backends.calibrate.plan import Extent
from backends.calibrate.point import Point
from backends.calibrate.timing import Effort, timed
from backends.shape import GroupShape
from sim.model import ModelSpec
from sim.timing import terms

COPIED = 1 << 30
"""Bytes of the copy that is the ceiling."""
RUNS = (16, 64, 256)
DECODES = ((64, 8192), (32, 4096))
"""Batches and lengths."""
ROWS = 1 << 14


@dataclass(frozen=True)
class Reach:
    """A kernel and what it is held against.

    share: of the bandwidth of a device copy, counting bytes read and written. target: the share
    that is aimed at, 0 for none. torch: how many times as long PyTorch's attention takes, where
    it was there.
    """

    name: str
    seconds: float
    share: float
    target: float
    torch: float | None = None

    def line(self) -> str:
        """For people."""
        aim = f", aim {self.target:.0%}" if self.target else ""
        torch = "" if self.torch is None else f"; PyTorch takes {self.torch:.2f} times as long"
        return (
            f"{self.name}: {self.seconds * 1e6:,.1f} us, {self.share:.1%} of copy bandwidth"
            f"{aim}{torch}"
        )


def extent_of(decodes: tuple[tuple[int, int], ...] = DECODES, rows: int = ROWS) -> Extent:
    """A store that the batches fit into twice; nothing else of an extent is asked for."""
    cells = max(4 * rows, *(2 * batch * length for batch, length in decodes))
    nothing: tuple[int, ...] = ()
    return Extent(
        cells, nothing, nothing, nothing, nothing, nothing, nothing, nothing, nothing, widest=1
    )


def reaches(
    backend: Backend,
    model: ModelSpec,
    kind: str = "bf16",
    *,
    copied: int = COPIED,
    rows: int = ROWS,
    decodes: tuple[tuple[int, int], ...] = DECODES,
    effort: Effort | None = None,
) -> list[Reach]:
    """Run copies of rows of ``model``, and decodes of its shape over tables and ranges.

    The last decode of `DECODES` is aimed at 75 % of copy bandwidth, larger ones at 85 %.
    """
    effort = effort or Effort()
    benches = Benches(backend, model, extent_of(decodes, rows))

    def measured(point: Point) -> tuple[float, dict[str, Any]]:
        works, found = benches.of(point)
        return timed(backend, works, effort)[0], found

    seconds, found = measured(Point.of(terms.MEMCPY, bytes=copied))
    bandwidth = found["bytes"] / seconds
    made = [Reach("device copy", seconds, 1.0, 0.0)]
    for run in RUNS:
        seconds, found = measured(Point.of(terms.COPY, kv_type=kind, rows=rows, run=run))
        share = found["bytes"] / seconds / bandwidth
        made.append(Reach(f"copy, runs of {run} rows", seconds, share, 0.9))
    for batch, length in decodes:
        target = 0.85 if batch * length > 32 * 4096 else 0.75
        torch = _torch_seconds(benches.shape, batch, length, effort)
        for layout in ("range", "table", "shuffled"):
            seconds, found = measured(
                Point.of(f"{terms.DECODE} {kind}", batch=batch, length=length, layout=layout)
            )
            share = found["bytes"] / seconds / bandwidth
            ratio = None if torch is None else torch / seconds
            name = f"decode {batch} x {length}, {layout}"
            made.append(Reach(name, seconds, share, target, ratio))
    return made


def _torch_seconds(shape: GroupShape, batch: int, length: int, effort: Effort) -> float | None:
    """Median of PyTorch's attention in bf16 on its own arrays; None without it or its GPU."""
    if find_spec("torch") is None:
        return None
    torch: Any = import_module("torch")
    if not torch.cuda.is_available():
        return None
    row = shape.row
    kwargs = {"device": "cuda", "dtype": torch.bfloat16}
    q = torch.randn(batch, shape.heads, 1, row.k_dim, **kwargs)
    k = torch.randn(batch, row.kv_heads, length, row.k_dim, **kwargs)
    v = torch.randn(batch, row.kv_heads, length, row.v_dim, **kwargs)
    flushed = torch.empty(512 << 20, dtype=torch.uint8, device="cuda")
    times = []
    for turn in range(effort.warmup + effort.repeats):
        flushed.fill_(0)
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        torch.nn.functional.scaled_dot_product_attention(q, k, v, enable_gqa=True)
        end.record()
        end.synchronize()
        if turn >= effort.warmup:
            times.append(start.elapsed_time(end) / 1e3)
    del q, k, v, flushed
    torch.cuda.empty_cache()
    return float(sorted(times)[len(times) // 2])
