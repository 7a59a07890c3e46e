"""Reading a layerwise profile: the CSV files that LLMServingSim's profiler writes for one GPU.

Times are microseconds of GPU kernels, one layer at a time, without what lies between kernels:

- ``dense.csv``: ``layer, tokens, time_us``.
- ``per_sequence.csv``: ``layer, sequences, time_us``.
- ``attention.csv``: ``prefill_chunk, kv_prefill, n_decode, kv_decode, time_us``. One prompt chunk
  (or none) with its cached prefix, and decoding sequences of equal length (or none).
- ``skew.csv``, where there is one: attention with ``nb`` of ``n`` decodes at length ``kv_big``
  and the rest shorter, as ``alpha``, the place of its time between those of equal batches at the
  mean and at the greatest length.
"""

from __future__ import annotations

import csv
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from sim.timing.grid import Floats, Grid
from workloads.errors import InputError

ONCE = ("embedding", "final_layernorm")
"""Dense layers that a step runs once; all others it runs in every layer of the model."""
TWICE = ("layernorm",)
"""Dense layers that every layer of the model has twice."""
NEEDED = ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")
"""Layers without which a profile is not one of a dense model."""


@dataclass(frozen=True)
class Profile:
    """Times in microseconds of everything that a step of one model runs on the GPU.

    dense: of all linear and elementwise layers of the whole model, by tokens. head: of the layers
    that run once a sequence. decode: attention of one layer without a prompt chunk, by sequences
    and their length. mixed: with one, over chunk, its prefix, sequences and their length.
    decode_skew, mixed_skew: alpha, over the same but with (share of long ones, their length) in
    place of the length; None where it was not profiled.
    kernels: GPU kernels of a step, counting one a profiled layer and two for attention (it writes
    the new keys and values first).
    """

    dense: Grid
    head: Grid
    decode: Grid
    mixed: Grid
    decode_skew: Grid | None
    mixed_skew: Grid | None
    kernels: int

    @property
    def grids(self) -> list[Grid]:
        """All of them."""
        grids = (self.dense, self.head, self.decode, self.mixed, self.decode_skew, self.mixed_skew)
        return [grid for grid in grids if grid is not None]

    def with_other_kernel(self, sequences: int) -> Profile:
        """With another kernel for decodes alone from so many sequences on."""
        skew = self.decode_skew
        return replace(
            self,
            decode=self.decode.parted(sequences),
            decode_skew=None if skew is None else skew.parted(sequences),
        )


def read_profile(directory: str | Path, layers: int) -> Profile:
    """The profile in a directory, for a model with so many layers; raises `InputError`."""
    root = Path(directory)
    if not root.is_dir():
        raise InputError(f"{directory}: not a directory with a layerwise profile")
    dense, per_layer, once = _curve(root / "dense.csv", "tokens", layers)
    head, _, heads = _curve(root / "per_sequence.csv", "sequences", 0)
    decode, mixed = _attention(root / "attention.csv")
    decode_skew, mixed_skew = _skew(root / "skew.csv")
    kernels = layers * (per_layer + 2) + once + heads
    return Profile(dense, head, decode, mixed, decode_skew, mixed_skew, kernels)


_LINE = "its line in the file"


def _rows(path: Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    """All rows of a CSV file; raises `InputError` unless it has the columns."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            missing = [name for name in columns if name not in (reader.fieldnames or ())]
            if missing:
                raise InputError(f"{path}: expected the column {missing[0]!r}")
            return [{**row, _LINE: str(reader.line_num)} for row in reader]
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: expected UTF-8 text") from error


def _numbers(path: Path, rows: list[dict[str, str]], columns: tuple[str, ...]) -> Floats:
    """The columns as finite numbers of 0 or more (``alpha``: any); raises `InputError`."""
    numbers = np.empty((len(rows), len(columns)))
    for index, row in enumerate(rows):
        for place, name in enumerate(columns):
            try:
                numbers[index, place] = float(row[name])
            except (TypeError, ValueError):
                numbers[index, place] = np.nan
    wrong = ~np.isfinite(numbers) | ((numbers < 0) & (np.array(columns) != "alpha"))
    if wrong.any():
        index, place = np.argwhere(wrong)[0]
        row, name = rows[index], columns[place]
        raise InputError(
            f"{path}:{row[_LINE]}: {name}: expected a number of 0 or more, got {row[name]!r}"
        )
    return numbers


def _grid(path: Path, names: tuple[str, ...], numbers: Floats, hold: bool = False) -> Grid:
    """A grid over all columns but the last."""
    try:
        return Grid(names, numbers[:, :-1], numbers[:, -1], "hold" if hold else "line")
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _curve(path: Path, axis: str, layers: int) -> tuple[Grid, int, int]:
    """The sum over all layers in a file, and how many of them are per model layer and once."""
    rows = _rows(path, ("layer", axis, "time_us"))
    numbers = _numbers(path, rows, (axis, "time_us"))
    by_layer: dict[str, list[int]] = {}
    for line, row in enumerate(rows):
        by_layer.setdefault(row["layer"], []).append(line)
    if layers:
        for name in NEEDED:
            if name not in by_layer:
                raise InputError(f"{path}: expected the layer {name!r} of a dense model, got none")
    curves = {name: _grid(path, (axis,), numbers[lines]) for name, lines in by_layer.items()}
    if not curves:
        raise InputError(f"{path}: expected measurements, got none")
    # Between the points of all of them the sum is linear too; nobody is continued into a gap.
    first = max(curve.axes[0][0] for curve in curves.values())
    last = min(curve.axes[0][-1] for curve in curves.values())
    points = np.unique(np.concatenate([curve.axes[0] for curve in curves.values()]))
    points = points[(points >= first) & (points <= last)]
    total, repeated = np.zeros(len(points)), 0
    for name, curve in curves.items():
        times = 1 + (name in TWICE) if layers and name not in ONCE else 0
        repeated += times
        total += (times * layers or 1) * curve.at(points)
    once = sum(not layers or name in ONCE for name in curves)
    return _grid(path, (axis,), np.stack([points, total], axis=1)), repeated, once


def _attention(path: Path) -> tuple[Grid, Grid]:
    """Attention without and with a prompt chunk: they are different kernels, so no blend."""
    names = ("prefill_chunk", "kv_prefill", "n_decode", "kv_decode")
    columns = (*names, "time_us")
    numbers = _numbers(path, _rows(path, columns), columns)
    chunk, sequences = numbers[:, 0], numbers[:, 2]
    decode = _grid(path, names[2:], numbers[(chunk == 0) & (sequences > 0)][:, 2:])
    mixed = numbers[chunk > 0]
    alone = mixed[:, 2] == 0
    lengths = np.unique(mixed[~alone, 3])
    if not len(lengths):
        lengths = np.zeros(1)
    # A chunk alone takes its time whatever length nobody has.
    spread = np.repeat(mixed[alone], len(lengths), axis=0)
    spread[:, 3] = np.tile(lengths, int(alone.sum()))
    return decode, _grid(path, names, np.concatenate([mixed[~alone], spread]))


def _skew(path: Path) -> tuple[Grid | None, Grid | None]:
    """Alpha without and with a prompt chunk, of the factor between lengths measured most."""
    if not path.exists():
        return None, None
    columns = ("n", "nb", "skew", "pc", "kp", "kv_big", "alpha")
    rows = [row for row in _rows(path, columns) if row["alpha"]]
    if not rows:
        return None, None
    factor = Counter(row["skew"] for row in rows).most_common(1)[0][0]
    rows = [row for row in rows if row["skew"] == factor]
    n, long, _, chunk, prefix, length, alpha = _numbers(path, rows, columns).T
    numbers = np.stack([chunk, prefix, n, long / n, length, alpha], axis=1)
    names = ("prefill_chunk", "kv_prefill", "n_decode", "share of long decodes", "longest decode")
    pure = numbers[chunk == 0][:, 2:]
    mixed = numbers[chunk > 0]
    return (
        _grid(path, names[2:], pure, hold=True) if len(pure) else None,
        _grid(path, names, mixed, hold=True) if len(mixed) else None,
    )
