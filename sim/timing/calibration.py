"""`calibration:FILE`: step times from what `kvlab calibrate` measured on a device.

``FILE`` may also be the name of a shipped calibration (`sim.timing.calibrations`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np

from sim.budget import Budget
from sim.dtypes import kv_type
from sim.hardware import HardwareSheet
from sim.model import LayerGroup
from sim.reads import cells_read, pairs_before
from sim.step import Count, Reads, Work
from sim.timing import terms
from sim.timing.base import Seconds, TimeModel
from sim.timing.calibrations import calibration_path
from sim.timing.fitted import Fitted
from workloads.errors import InputError

SCHEMA = 1
SWAPPED_RUN = 16
"""Cells that lie together in a sequence that is swapped: a block of vLLM's default size."""


class Calibration(TimeModel):
    """The sum of the measured kernels of a step, layer by layer.

    Matrix products of every layer and of the output head, rows written, attention of each layer
    group (decodes and prefills apart), copies and K-shifts inside the cache. What an engine does
    besides (norms, activations, sampling, its own host code) was not measured; of it only the
    hardware sheet's ``step_overhead`` is added, for every pass.

    A step with decodes and prefills has one number of cells read for both; it is divided in
    proportion to what each must read at the least.
    """

    name = "calibration"
    divisible = False

    def __init__(self, budget: Budget, hardware: HardwareSheet, data: Mapping[str, Any]) -> None:
        """``data``: a file's content as `read` gives it."""
        models = data["models"]
        self._decode, self._prefill, self._write, self._shift = (
            models[terms.typed(kernel, budget.kv_type_k, budget.kv_type_v)]
            for kernel in (terms.DECODE, terms.PREFILL, terms.WRITE, terms.SHIFT)
        )
        self._gemm, self._copy = models[terms.GEMM], models[terms.COPY]
        self._swap = {True: models[terms.SWAP_OUT], False: models[terms.SWAP_IN]}
        *self._body, self._head = data["matrices"]
        self._element_bytes = int(data["element_bytes"])
        self._groups = budget.model.groups()
        self._cells = [budget.cell_bytes_of(group) // group.layers for group in self._groups]
        self._layers = sum(group.layers for group in self._groups)
        self._overhead = hardware.step_overhead

    @classmethod
    def of(cls, budget: Budget, hardware: HardwareSheet, path: str) -> Self:
        """From a calibration file of the budget's model and types."""
        if not path:
            raise InputError("calibration: expected calibration:FILE, a file of `kvlab calibrate`")
        data = read(calibration_path(path))
        if data["model"] != budget.model.name:
            raise InputError(
                f"{path}: model: measured for {data['model']!r}, expected {budget.model.name!r}"
            )
        for kind in (budget.kv_type_k, budget.kv_type_v):
            kv_type(kind)
        kernel = terms.typed(terms.DECODE, budget.kv_type_k, budget.kv_type_v)
        if kernel not in data["models"]:
            known = ", ".join(data["kv_types"])
            raise InputError(f"{path}: models: no {kernel!r}; measured KV types: {known}")
        return cls(budget, hardware, data)

    def seconds(self, work: Work) -> Seconds:
        """Overhead, matrix products, rows written, attention of every group, copies, shifts."""
        total: Any = work.passes * self._overhead + self._linear(work)
        for group, cell_bytes, reads in zip(self._groups, self._cells, work.reads, strict=True):
            written = self._write.seconds({"bytes": work.tokens * cell_bytes})
            attention = self._attention(work, group, cell_bytes, reads)
            total = total + group.layers * (written + attention)
            total = total + len(group.borrowers) * attention
        if work.copy_bytes:
            total = total + self._copy.seconds({"bytes": 2 * work.copy_bytes, "runs": 0})
        if work.shift_bytes:
            total = total + self._shift.seconds({"bytes": 2 * work.shift_bytes})
        return total

    def _linear(self, work: Work) -> Any:
        tokens = work.tokens / work.passes
        total: Any = 0.0
        for inputs, outputs, count in self._body:
            each = self._gemm.seconds(
                terms.gemm_terms(tokens, inputs, outputs, self._element_bytes)
            )
            total = total + work.passes * count * each
        if work.sequences:
            inputs, outputs, _ = self._head
            total = total + self._gemm.seconds(
                terms.gemm_terms(work.sequences, inputs, outputs, self._element_bytes)
            )
        return total

    def _attention(self, work: Work, group: LayerGroup, cell_bytes: int, reads: Reads) -> Any:
        cells, pairs = _decode_shares(work, group)
        total: Any = 0.0
        if work.decodes:
            longest: Any = work.decode_longest
            total = total + self._decode.seconds(
                terms.decode_terms(
                    reads.cells * cells,
                    reads.pairs * pairs,
                    work.decodes,
                    reads.gathers * cells,
                    np.minimum(longest, group.window) if group.window else longest,
                    cell_bytes,
                    group.pair_flops,
                )
            )
        calls = max(len(work.prefills), work.sequences - work.decodes)
        if calls:
            found = terms.prefill_terms(
                reads.cells * (1.0 - cells),
                reads.pairs * (1.0 - pairs),
                work.tokens - work.decodes,
                cell_bytes,
                group.pair_flops,
            )
            total = total + (calls - 1) * self._prefill.fixed + self._prefill.seconds(found)
        return total

    def swap_seconds(self, n_bytes: int, to_host: bool) -> float:
        """As measured, in runs of `SWAPPED_RUN` cells of one layer."""
        runs = n_bytes / (SWAPPED_RUN * max(self._cells))
        return float(self._swap[to_host].seconds({"bytes": n_bytes, "runs": runs}))


def _decode_shares(work: Work, group: LayerGroup) -> tuple[float, float]:
    """Shares of the decodes in the cells read and in the pairs scored by a step."""
    if not work.decodes:
        return 0.0, 0.0
    if not work.prefills:
        return 1.0, 1.0
    decoded = work.decode_context
    if group.window:
        decoded = min(decoded, work.decodes * group.window)
    cells = sum(cells_read(group, start, n) for n, start in work.prefills)
    pairs = sum(
        pairs_before(group, start + n) - pairs_before(group, start) for n, start in work.prefills
    )
    return _share(decoded, cells), _share(decoded, pairs)


def _share(one: Count, other: Count) -> float:
    return float(one / (one + other))


def read(path: Path) -> dict[str, Any]:
    """A calibration file, its models as `Fitted`.

    Raises `InputError` where it cannot be read or is not one that this version understands.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"{path}: is not JSON: {error}") from error
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        raise InputError(f"{path}: schema: expected {SCHEMA}, a file of `kvlab calibrate`")
    wanted = (
        *("model", "kv_types", "matrices", "element_bytes", "models"),
        *("device", "date", "errors", "points"),
    )
    missing = [name for name in wanted if name not in data]
    if missing:
        raise InputError(f"{path}: {missing[0]}: missing; expected a file of `kvlab calibrate`")
    try:
        data["models"] = {name: Fitted(**model) for name, model in data["models"].items()}
    except (TypeError, AttributeError) as error:
        raise InputError(f"{path}: models: {error}") from error
    return data
