"""What a kernel does, in the units that its time is fitted in; for one layer where it has layers.

The same functions give the terms of a measured point and those of a simulated step.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

Terms = dict[str, Any]

WRITE, COPY, SWAP_OUT, SWAP_IN, SHIFT = "write", "copy", "swap_out", "swap_in", "shift"
MEMCPY, MATMUL, GEMM, LAUNCH = "memcpy", "matmul", "gemm", "launch"
DECODE, PREFILL, MIXED = "decode", "prefill", "mixed"


class Form(NamedTuple):
    """Which terms of a kernel add up, and which limit it."""

    sums: tuple[str, ...]
    limits: tuple[str, ...]


FORMS: Mapping[str, Form] = {
    MEMCPY: Form((), ("bytes",)),
    MATMUL: Form((), ("flops",)),
    GEMM: Form((), ("bytes", "flops")),
    LAUNCH: Form(("launches",), ()),
    WRITE: Form((), ("bytes",)),
    COPY: Form(("runs",), ("bytes",)),
    SWAP_OUT: Form(("runs",), ("bytes",)),
    SWAP_IN: Form(("runs",), ("bytes",)),
    SHIFT: Form((), ("bytes",)),
    DECODE: Form(("sequences", "gathers", "longest"), ("bytes", "flops")),
    PREFILL: Form(("queries",), ("bytes", "flops")),
}


def form_of(kernel: str) -> Form:
    """The form of a kernel; ``decode f16`` has that of ``decode``."""
    return FORMS[kernel.partition(" ")[0]]


def typed(kernel: str, type_k: str, type_v: str) -> str:
    """The name of a kernel whose time depends on the types of K and V."""
    return f"{kernel} {type_k}" if type_k == type_v else f"{kernel} {type_k}/{type_v}"


def gemm_terms(tokens: Any, inputs: int, outputs: int, element_bytes: int) -> Terms:
    """A product of ``tokens`` rows with a matrix; weights, input and output move once."""
    elements = inputs * outputs + tokens * (inputs + outputs)
    return {"bytes": element_bytes * elements, "flops": 2 * inputs * outputs * tokens}


def decode_terms(
    cells: Any, pairs: Any, sequences: Any, gathers: Any, longest: Any, cell_bytes: int, flops: int
) -> Terms:
    """One query a sequence. cell_bytes: K and V of a cell; flops: of a query-cell pair."""
    return {
        "sequences": sequences,
        "gathers": gathers,
        "longest": longest,
        "bytes": cells * cell_bytes,
        "flops": pairs * flops,
    }


def prefill_terms(cells: Any, pairs: Any, queries: Any, cell_bytes: int, flops: int) -> Terms:
    """Several queries of a sequence over its cells."""
    return {"queries": queries, "bytes": cells * cell_bytes, "flops": pairs * flops}
