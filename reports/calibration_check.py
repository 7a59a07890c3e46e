"""Our calibration beside other people's measurements of the same attention, shape by shape.

The tables are aiconfigurator's (`sim.timing.attention_tables`): decodes of a batch of equal
lengths, and prompts without a prefix. Points of a calibration that ask for anything else (skewed
batches, masks over foreign cells, prefixes) have no counterpart there and are left out.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from sim.budget import Budget
from sim.model import ModelSpec
from sim.timing import terms
from sim.timing.attention_tables import KV_TYPES, Measured, measured, shape_of
from sim.timing.grid import Grid
from workloads.errors import InputError

COMPARED = ("range", "table", "shuffled")
"""Layouts of a decode that read each sequence's own cells, all equally long."""


@dataclass(frozen=True)
class Pair:
    """One shape: seconds of one layer as we measured it, and as the tables have it.

    batch: sequences. cells: of each, or new tokens of a prompt.
    """

    kernel: str
    layout: str
    batch: int
    cells: int
    ours: float
    theirs: float

    @property
    def ratio(self) -> float:
        """How many times as long ours takes."""
        return self.ours / self.theirs


def pairs_of(data: Mapping[str, Any], model: ModelSpec, tables: str) -> list[Pair]:
    """Every point of a calibration file that lies within the tables at ``tables``.

    Only layers of the model's first kind are calibrated. Raises `InputError` where the tables
    cannot be read, or have nothing in common with the calibration.
    """
    found: list[Pair] = []
    known: dict[str, Measured] = {}
    for row in data["points"]:
        kernel, _, kind = row["kernel"].partition(" ")
        if kernel not in (terms.DECODE, terms.PREFILL) or kind not in KV_TYPES:
            continue
        if kind not in known:
            budget = Budget(model, 0, kind, kind)
            shape = shape_of(model.groups()[0], budget)._replace(window=0)
            try:
                known[kind] = measured(tables, [shape])[0]
            except InputError as error:
                raise InputError(f"{error} ({model.name}, {kind})") from error
        pair = _pair(row, known[kind])
        if pair is not None:
            found.append(pair)
    if not found:
        raise InputError(f"{tables}: no shape that the calibration has measured too")
    return found


def _pair(row: Mapping[str, Any], known: Measured) -> Pair | None:
    params = row["params"]
    if row["kernel"].startswith(terms.DECODE):
        batch, cells, layout, grid = (
            params["batch"], params["length"], params["layout"], known.decode
        )  # fmt: skip
        is_there = layout in COMPARED
    else:
        batch, cells, layout, grid = 1, params["chunk"], "", known.prefill
        is_there = not params["prefix"]
    if not (is_there and _is_within(grid, batch, cells)):
        return None
    theirs = float(grid.at(batch, np.array([float(cells)]))[0]) / 1e3
    return Pair(row["kernel"], layout, batch, cells, row["seconds"], theirs)


def _is_within(grid: Grid, *point: float) -> bool:
    return all(axis[0] <= value <= axis[-1] for axis, value in zip(grid.axes, point, strict=True))


def write_pairs(pairs: Sequence[Pair], path: Path) -> None:
    """Every shape as a row of CSV: times in microseconds, and their ratio."""
    rows = [
        (
            *(each.kernel, each.layout, each.batch, each.cells),
            *(round(each.ours * 1e6, 3), round(each.theirs * 1e6, 3), round(each.ratio, 4)),
        )
        for each in pairs
    ]
    names = ("kernel", "layout", "batch", "cells", "ours_us", "theirs_us", "ratio")
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        with unfinished.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([names, *rows])
        unfinished.replace(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from None


def pair_table(pairs: Sequence[Pair]) -> Table:
    """By kernel and layout: how many shapes, and how our times lie to theirs."""
    table = Table("kernel", "layout", title="Ours / theirs, one layer, shape by shape")
    for name in ("shapes", "median", "least", "most", "least at", "most at"):
        table.add_column(name, justify="right")
    groups: dict[tuple[str, str], list[Pair]] = defaultdict(list)
    for pair in pairs:
        groups[pair.kernel, pair.layout].append(pair)
    for (kernel, layout), group in groups.items():
        ordered = sorted(group, key=lambda pair: pair.ratio)
        ends = ordered[0], ordered[-1]
        table.add_row(
            kernel,
            layout,
            str(len(group)),
            f"{np.median([pair.ratio for pair in group]):.2f}",
            *(f"{pair.ratio:.2f}" for pair in ends),
            *(f"{pair.batch} x {pair.cells:,}" for pair in ends),
        )
    return table
