"""A few kernels beside what bounds them: copies and decode attention against device copies.

Everything is timed in the same run and in the same way (events, inputs rotated, the L2 cache
emptied before each call), the reference first. Decode attention is also held against other
people's (`backends.references`) on the same contiguous shape.

``python -m backends.ceilings BATCH LENGTH`` runs one decode a few times, under a profiler say.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from backends.arrays import Backend
from backends.calibrate.benches import Benches
from backends.calibrate.plan import Extent
from backends.calibrate.point import Point
from backends.calibrate.timing import Effort, Work, timed
from backends.choice import BACKENDS, backend_of
from backends.decode import decode
from backends.references import reference_seconds
from sim.model import ModelSpec
from sim.model_files.lookup import model_of
from sim.timing import terms
from workloads.errors import InputError

COPIED = 1 << 30
"""Bytes of the copy that is the ceiling."""
ROWS = 1 << 17
"""Rows that the run copies move: of Llama-3.1-8B in bf16 half of `COPIED`, of K and of V."""
RUNS = (16, 64, 256)
COPY_TARGET = 0.9
DECODES = ((64, 8192), (32, 4096))
"""Batches and lengths."""
LAYOUTS = ("range", "table", "shuffled")
LARGE_TARGET, SMALL_TARGET = 0.85, 0.75
"""Shares that decodes over block tables aim at: of the first of `DECODES`, and of smaller ones."""
SPLITS = (1, 2, 3, 4, 8)
"""Splits tried beside the number that `backends.decode.splits_of` takes."""


@dataclass(frozen=True)
class Reach:
    """A kernel and what it is held against.

    share: of the bandwidth of a device copy, counting bytes read and written. target: the share
    that is aimed at, 0 for none. others: seconds of references by name, or why there are none.
    """

    name: str
    seconds: float
    share: float
    target: float = 0.0
    others: dict[str, float | str] = field(default_factory=dict)

    def lines(self) -> Iterator[str]:
        """For people; what is aimed at is passed or missed."""
        yield f"{self.name}: {self.seconds * 1e6:,.1f} us, {self.share:.1%} of copy bandwidth"
        if self.target:
            yield _verdict(
                self.share >= self.target,
                f"{self.name}: {self.share:.1%} of copy bandwidth, at least {self.target:.0%}",
            )
        for other, seconds in self.others.items():
            if isinstance(seconds, str):
                yield f"  {other}: could not be run ({seconds})"
                continue
            ratio = (
                f"{self.seconds / seconds:.2f} times {other}'s {seconds * 1e6:,.1f} us, at most 1"
            )
            yield _verdict(self.seconds <= seconds, f"{self.name}: {ratio}")


def _verdict(passed: bool, what: str) -> str:
    return f"  {'pass' if passed else 'MISS'}: {what}"


def error_lines(errors: dict[str, Any]) -> Iterator[str]:
    """Held-out errors of a calibration's kernels beside what is aimed at."""
    for kernel, error in errors.items():
        if "median" in error:
            yield _verdict(
                error["median"] <= MEDIAN_TARGET and error["p95"] <= P95_TARGET,
                f"{kernel}: median {error['median']:.1%}, p95 {error['p95']:.1%} of"
                f" {error['points']} points held out, at most {MEDIAN_TARGET:.0%} and"
                f" {P95_TARGET:.0%}",
            )


MEDIAN_TARGET, P95_TARGET = 0.03, 0.10
"""Relative errors on held-out points that are aimed at."""


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
) -> Iterator[Reach]:
    """Run copies of rows of ``model``, and decodes of its shape over tables and ranges."""
    effort = effort or Effort()
    benches = Benches(backend, model, extent_of(decodes, rows))

    def measured(works: list[Work], found: dict[str, Any]) -> tuple[float, float]:
        seconds = timed(backend, works, effort)[0]
        return seconds, found["bytes"] / seconds

    seconds, bandwidth = measured(*benches.of(Point.of(terms.MEMCPY, bytes=copied)))
    yield Reach("device copy", seconds, 1.0)
    for run in RUNS:
        point = Point.of(terms.COPY, kv_type=kind, rows=rows, run=run)
        seconds, reached = measured(*benches.of(point))
        yield Reach(f"copy, runs of {run} rows", seconds, reached / bandwidth, COPY_TARGET)
    for batch, length in decodes:
        others = reference_seconds(
            backend, benches.store(kind), benches.shape, batch, length, effort
        )
        for layout in LAYOUTS:
            point = Point.of(f"{terms.DECODE} {kind}", batch=batch, length=length, layout=layout)
            works, found = benches.of(point)
            seconds, reached = measured(works, found)
            name, target = f"decode {batch} x {length}, {layout}", 0.0
            if layout != "range":
                target = LARGE_TARGET if (batch, length) == decodes[0] else SMALL_TARGET
            share = reached / bandwidth
            yield Reach(name, seconds, share, target, others if layout != "shuffled" else {})
            if layout == "table":
                for splits in SPLITS:
                    seconds, reached = measured(_with_splits(works, splits), found)
                    title = f"decode {batch} x {length}, {layout}, {splits} splits"
                    yield Reach(title, seconds, reached / bandwidth)


def _with_splits(works: list[Work], splits: int) -> list[Work]:
    """The same decodes with another number of splits."""
    changed: list[Work] = []
    for work in works:
        assert isinstance(work, partial)
        store, layer, q, batch, scale = work.args
        changed.append(partial(decode, store, layer, q, replace(batch, splits=splits), scale))
    return changed


def main(arguments: list[str]) -> int:
    """One decode a few times, for a profiler to look at; 2 for input that cannot be used."""
    parser = argparse.ArgumentParser(prog="python -m backends.ceilings", description=main.__doc__)
    parser.add_argument("batch", type=int)
    parser.add_argument("length", type=int)
    parser.add_argument("--layout", choices=LAYOUTS, default="table")
    parser.add_argument("--kv-type", default="bf16")
    parser.add_argument("--model", default="llama-3.1-8b")
    parser.add_argument("--backend", choices=BACKENDS, default="cupy")
    parser.add_argument("--times", type=int, default=3)
    given = parser.parse_args(arguments)
    try:
        backend = backend_of(given.backend)
        shape = ((given.batch, given.length),)
        benches = Benches(backend, model_of(given.model), extent_of(shape, rows=0))
        name = f"{terms.DECODE} {given.kv_type}"
        sizes = {"batch": given.batch, "length": given.length, "layout": given.layout}
        works, found = benches.of(Point.of(name, **sizes))
    except InputError as error:
        print(f"ceilings: {error}", file=sys.stderr)
        return 2
    for work in works[: given.times]:
        seconds = backend.seconds(work)
        print(f"{seconds * 1e6:,.1f} us, {found['bytes'] / seconds / 1e9:,.0f} GB/s")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
