"""`attention-tables:FILE`: attention as aiconfigurator measured it, the rest as a roofline.

ai-dynamo/aiconfigurator publishes tables of attention times by batch, heads, KV heads, head size,
KV type, length and window: ``*_generation_attention_perf.parquet`` for decodes, where a sequence
has ``step + 1`` cells, and ``*_context_attention_perf.parquet`` for prefills of ``isl`` tokens
without a prefix. Times are milliseconds of one layer.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

from sim.budget import Budget
from sim.hardware import HardwareSheet
from sim.model import LayerGroup, ModelSpec
from sim.step import Work
from sim.timing.base import Seconds, TimeModel
from sim.timing.grid import Floats, Grid
from sim.timing.roofline import Roofline
from workloads.errors import InputError

DECODE, PREFILL = "generation_attention_perf", "context_attention_perf"
KV_TYPES = {"f16": "bfloat16", "bf16": "bfloat16", "fp8": "fp8"}
"""Names in the tables. Half precisions have the same bytes and the same kernels."""


class Shape(NamedTuple):
    """What the tables are keyed by, besides batch and length."""

    heads: int
    kv_heads: int
    head_dim: int
    kv_type: str
    window: int


class Measured(NamedTuple):
    """Times of one shape: decodes by (batch, cells), prefills by (batch, tokens).

    longest: cells that a decode is looked up with at most: the window, where the tables have none
    of that size and those of full attention stand for it.
    """

    decode: Grid
    prefill: Grid
    longest: float


class AttentionTables(TimeModel):
    """Measured attention of live tokens; linear layers, copies and overhead from the sheet.

    Decodes of unequal length count as a batch of their mean length. A prefill with a prefix costs
    what a prompt of both costs more than a prompt of the prefix. Cells that a policy scans in vain
    and block tables are not priced: the tables are of vLLM's own kernels on its own cache.
    """

    name = "attention-tables"
    sees_prefills = True

    def __init__(self, budget: Budget, hardware: HardwareSheet, measured: list[Measured]) -> None:
        self._groups = budget.model.groups()
        self._measured = measured
        self._rest = Roofline(budget, hardware)

    @classmethod
    def of(cls, budget: Budget, hardware: HardwareSheet, path: str) -> Self:
        """From the table of decodes at ``path`` and that of prefills beside it."""
        shapes = [shape_of(group, budget) for group in budget.model.groups()]
        return cls(budget, hardware, measured(path, shapes))

    def seconds(self, work: Work) -> Seconds:
        """Overhead, linear layers, attention of every group, copies; in this order."""
        rest = self._rest
        total: Any = work.passes * rest.overhead + rest.linear(work)
        for group, found in zip(self._groups, self._measured, strict=True):
            total = total + group.attending * 1e-3 * _milliseconds(found, work)
        total = total + 2 * (work.copy_bytes + work.shift_bytes) / rest.copy_bandwidth
        return total if work.steps > 1 else float(np.atleast_1d(total)[0])

    def swap_seconds(self, n_bytes: int, to_host: bool) -> float:
        """As the roofline has it."""
        return self._rest.swap_seconds(n_bytes, to_host)

    @property
    def outside(self) -> list[str]:
        """A line for everything that was asked outside the measured range so far."""
        grids = (grid for found in self._measured for grid in (found.decode, found.prefill))
        return list(dict.fromkeys(line for grid in grids for line in grid.outside))


def _milliseconds(measured: Measured, work: Work) -> Any:
    """Of one layer; one number a step."""
    total: Any = 0.0
    if work.decodes:
        mean = np.atleast_1d(np.asarray(work.decode_context)) / work.decodes
        total = total + measured.decode.at(work.decodes, np.minimum(mean, measured.longest))
    if work.prefills:
        ends = np.array([float(start + n) for n, start in work.prefills])
        starts = np.array([float(max(1, start)) for _, start in work.prefills])
        one = measured.prefill.at(1, np.ones(1))
        more = measured.prefill.at(1, ends) - measured.prefill.at(1, starts)
        total = total + one + np.maximum(more, 0.0).sum()
    return total


def measured(path: str, shapes: list[Shape]) -> list[Measured]:
    """What the table of decodes at ``path``, and that of prefills beside it, say of ``shapes``.

    Raises `InputError` where they cannot be read or have no rows of a shape.
    """
    if DECODE not in Path(path).name:
        found = f", got {path!r}" if path else ""
        raise InputError(
            f"attention-tables: expected attention-tables:FILE, a *{DECODE}.parquet{found}"
        )
    decode = _frame(Path(path))
    prefill = _frame(Path(path).with_name(Path(path).name.replace(DECODE, PREFILL)))
    return [_measured(decode, prefill, shape, path) for shape in shapes]


def shape_of(group: LayerGroup, budget: Budget) -> Shape:
    """The shape of a group; `InputError` where the tables can have none of the kind."""
    model: ModelSpec = budget.model
    attention = model.layers[group.layer_ids[0]].attention
    if attention is None or attention.latent is not None:
        raise InputError(f"attention-tables: {model.name} has layers without K and V heads")
    kind = KV_TYPES.get(budget.kv_type_k)
    if kind is None or budget.kv_type_v != budget.kv_type_k:
        known = ", ".join(KV_TYPES)
        raise InputError(
            f"attention-tables: expected K and V both of one of {known}, "
            f"not {budget.kv_type_k} and {budget.kv_type_v}"
        )
    return Shape(attention.heads, attention.kv_heads, attention.head_dim_k, kind, group.window)


def _measured(decode: Any, prefill: Any, shape: Shape, path: str) -> Measured:
    """The rows of ``shape``; of full attention where its window was not measured."""
    longest = np.inf
    if not len(_rows(decode, shape)) or not len(_rows(prefill, shape)):
        longest = float(shape.window) if shape.window else np.inf
        shape = shape._replace(window=0)
    rows, prompts = _rows(decode, shape), _rows(prefill, shape)
    if not len(rows) or not len(prompts):
        raise InputError(
            f"{path}: expected rows of {shape.heads} heads, {shape.kv_heads} KV heads of"
            f" {shape.head_dim} elements, KV type {shape.kv_type}; there are none"
        )
    return Measured(
        _grid("cells", rows.batch_size, rows.step + 1, rows.latency),
        _grid("tokens", prompts.batch_size, prompts.isl, prompts.latency),
        longest,
    )


def _grid(length: str, batch: Any, lengths: Any, latency: Any) -> Grid:
    points: Floats = np.stack([batch, lengths], axis=1).astype(np.float64)
    return Grid(("batch", length), points, latency.to_numpy(np.float64))


def _rows(frame: Any, shape: Shape) -> Any:
    return frame[
        (frame.num_heads == shape.heads)
        & (frame.num_key_value_heads == shape.kv_heads)
        & (frame.head_dim == shape.head_dim)
        & (frame.kv_cache_dtype == shape.kv_type)
        & (frame.window_size == shape.window)
    ]


def _frame(path: Path) -> Any:
    """The table at ``path``; `InputError` where it cannot be read."""
    import pandas as pd

    wanted = [
        *("batch_size", "isl", "step", "num_heads", "num_key_value_heads", "head_dim"),
        *("kv_cache_dtype", "window_size", "latency"),
    ]
    try:
        frame = pd.read_parquet(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    except ValueError as error:
        raise InputError(f"{path}: is not Parquet: {error}") from error
    missing = [name for name in wanted if name not in frame]
    if missing:
        raise InputError(f"{path}: expected a column {missing[0]!r}; there is none")
    return frame[wanted]
