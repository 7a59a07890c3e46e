"""Which points are measured: enough to fit, spread over what a simulation asks for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

from backends.calibrate.point import Point
from sim.model import ModelSpec
from sim.timing import terms
from workloads.errors import InputError

BLOCK = 16
"""Cells of a block of the tables that are measured; vLLM's default."""


@dataclass(frozen=True)
class Extent:
    """How far the points reach. cells: of a store; a point may not need more.

    copied: bytes. square: sides of matrices. rows: cells written, copied, turned, swapped.
    batches, lengths: of decoding sequences. chunks, prefixes: of prefills. tokens: of GEMMs.
    widest: most columns of a matrix; wider ones (output heads) are measured cut to that.
    """

    cells: int
    copied: tuple[int, ...]
    square: tuple[int, ...]
    rows: tuple[int, ...]
    batches: tuple[int, ...]
    lengths: tuple[int, ...]
    chunks: tuple[int, ...]
    prefixes: tuple[int, ...]
    tokens: tuple[int, ...]
    widest: int


def _powers(first: int, last: int) -> tuple[int, ...]:
    """Powers of two from ``first`` to ``last``, and one and a half times each but the last."""
    sizes = [1 << i for i in range(first.bit_length() - 1, last.bit_length())]
    return tuple(sorted({*sizes, *(size * 3 // 2 for size in sizes[:-1] if size > 1)}))


EXTENTS = {
    ("numpy", True): Extent(
        cells=8192,
        copied=_powers(1 << 20, 1 << 24),
        square=(128, 192, 256, 384, 512),
        rows=(16, 32, 64, 128, 256, 512),
        batches=(1, 2, 4, 8),
        lengths=(64, 128, 256, 512),
        chunks=(16, 32, 64, 128),
        prefixes=(0, 256),
        tokens=(1, 8, 32),
        widest=8192,
    ),
    ("numpy", False): Extent(
        cells=1 << 16,
        copied=_powers(1 << 20, 1 << 28),
        square=_powers(128, 2048),
        rows=_powers(16, 4096),
        batches=(1, 2, 4, 8, 16, 32),
        lengths=_powers(64, 2048),
        chunks=_powers(16, 512),
        prefixes=(0, 256, 1024, 2048),
        tokens=_powers(1, 512),
        widest=32768,
    ),
    ("cupy", True): Extent(
        cells=1 << 19,
        copied=_powers(1 << 22, 1 << 28),
        square=(1024, 2048, 3072, 4096, 6144),
        rows=_powers(16, 4096),
        batches=(1, 8, 32, 64),
        lengths=(512, 1024, 2048, 4096, 8192),
        chunks=(128, 512, 1024, 2048),
        prefixes=(0, 1024, 4096),
        tokens=(1, 16, 64, 256, 512, 1024, 2048),
        widest=1 << 17,
    ),
    ("cupy", False): Extent(
        cells=1 << 20,
        copied=_powers(1 << 20, 1 << 30),
        square=_powers(1024, 8192),
        rows=_powers(16, 1 << 14),
        batches=(1, 2, 4, 8, 16, 32, 64, 128),
        lengths=_powers(256, 16384),
        chunks=_powers(64, 4096),
        prefixes=(0, 512, 1024, 4096, 8192),
        tokens=_powers(1, 8192),
        widest=1 << 17,
    ),
}
"""By backend, and whether it is to be quick."""


def points_of(model: ModelSpec, kv_types: Sequence[str], extent: Extent) -> list[Point]:
    """All points, the two ceilings first."""
    return [
        *(Point.of(terms.MEMCPY, bytes=n) for n in extent.copied),
        *(Point.of(terms.MATMUL, side=n) for n in extent.square),
        *(Point.of(terms.LAUNCH, launches=n) for n in (1, 2, 4, 8, 16, 32)),
        *_gemms(model, extent),
        *(point for kind in kv_types for point in _rows(kind, extent)),
        *(point for kind in kv_types for point in _decodes(kind, extent)),
        *(point for kind in kv_types for point in _prefills(kind, extent)),
        *(point for kind in kv_types for point in _mixed(kind, extent)),
    ]


def _gemms(model: ModelSpec, extent: Extent) -> Iterator[Point]:
    shapes = {(k, min(n, extent.widest)): None for k, n, _ in matrices_of(model)}
    for (k, n), tokens in product(shapes, extent.tokens):
        yield Point.of(terms.GEMM, tokens=tokens, inputs=k, outputs=n)


def matrices_of(model: ModelSpec) -> list[tuple[int, int, int]]:
    """(inputs, outputs, how many) of the matrices that tokens pass through, the head last.

    Raises `InputError` for models with experts or recurrent layers, which are not measured.
    """
    counted: dict[tuple[int, int], int] = {}
    for layer in model.layers:
        attention, feed_forward = layer.attention, layer.feed_forward
        if layer.state is not None or attention is None or attention.latent is not None:
            raise InputError(f"{model.name}: recurrent and MLA layers cannot be calibrated")
        if feed_forward is not None and feed_forward.experts:
            raise InputError(f"{model.name}: mixtures of experts cannot be calibrated")
        queries, out = (
            attention.heads * attention.head_dim_k,
            attention.heads * attention.head_dim_v,
        )
        shapes = [
            (model.hidden, queries + attention.k_elements + attention.v_elements),
            (out, model.hidden),
        ]
        if feed_forward is not None:
            width = feed_forward.intermediate
            shapes += [
                (model.hidden, width * (2 if feed_forward.gated else 1)),
                (width, model.hidden),
            ]
        for shape in shapes:
            counted[shape] = counted.get(shape, 0) + 1
    body = [(k, n, count) for (k, n), count in counted.items()]
    return [*body, (model.hidden, model.vocab, 1)]


def _rows(kind: str, extent: Extent) -> Iterator[Point]:
    for n in extent.rows:
        yield Point.of(terms.typed(terms.WRITE, kind, kind), kv_type=kind, rows=n)
        yield Point.of(terms.typed(terms.SHIFT, kind, kind), kv_type=kind, rows=n)
    for n, run in product(extent.rows, (1, 4, 16, 64, 256)):
        if run <= n:
            yield Point.of(terms.COPY, kv_type=kind, rows=n, run=run)
    for n, block in product(extent.rows[1:], (BLOCK, 4 * BLOCK)):
        if block <= n:
            yield Point.of(terms.SWAP_OUT, kv_type=kind, rows=n, run=block)
            yield Point.of(terms.SWAP_IN, kv_type=kind, rows=n, run=block)


def _decodes(kind: str, extent: Extent) -> Iterator[Point]:
    """Layouts: alone (a range each), together (one range, masked), tables in order and shuffled.

    Skewed batches have half of their cells in one sequence.
    """
    name = terms.typed(terms.DECODE, kind, kind)
    for batch, length in product(extent.batches, extent.lengths):
        if batch * length > extent.cells // 2:
            continue
        for layout in ("range", "table", "shuffled"):
            yield Point.of(name, batch=batch, length=length, layout=layout)
        if batch * batch * length <= extent.cells and batch > 1:
            yield Point.of(name, batch=batch, length=length, layout="together")
        if batch > 2:
            yield Point.of(name, batch=batch, length=length, layout="skewed")


def _prefills(kind: str, extent: Extent) -> Iterator[Point]:
    for chunk, prefix in product(extent.chunks, extent.prefixes):
        yield Point.of(terms.typed(terms.PREFILL, kind, kind), chunk=chunk, prefix=prefix)


def _mixed(kind: str, extent: Extent) -> Iterator[Point]:
    """A prefill chunk and decodes in one step; predicted from the two, fitted to neither."""
    for chunk, batch in product(extent.chunks[::2], extent.batches[1::2]):
        length = extent.lengths[len(extent.lengths) // 2]
        name = terms.typed(terms.MIXED, kind, kind)
        yield Point.of(name, chunk=chunk, prefix=0, batch=batch, length=length)
