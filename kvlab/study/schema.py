"""What a study file may say; `docs/studies.md` shows it with examples."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from kvlab.config import Comparison, Count, Rate, RunConfig
from kvlab.reproduce import EXPERIMENTS
from kvlab.study.axes import Axis, axis_of_grid, axis_of_points, axis_of_policies, flattened
from reports.metrics import metric_names
from sim.tables import read_toml
from workloads.errors import InputError
from workloads.registry import suggestion_for

Share = Annotated[float, Field(gt=0, le=1)]
Tolerance = Annotated[float, Field(ge=0, le=10)]

METRICS_SHOWN = ("goodput_rps", "output_tokens_per_s", "ttft_s.p99", "tpot_s.mean", "preemptions")
"""Metrics of the tables where a study names none."""


class PlotWanted(BaseModel):
    """One picture of the sweep.

    kind: ``lines``: ``metric`` over the axis ``x``, a line for each label of the axis ``by``;
    ``dots``: ``metric`` with its interval for each label of the axis ``x``, marked by ``by``;
    ``heat``: ``metric`` over the axes ``x`` and ``y``, a map for each label of ``by``;
    ``pareto``: the metric ``x`` against the metric ``y``, points marked by the axis ``by``.
    by: the compared axis where it is left out. log_x: a logarithmic axis.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["lines", "dots", "heat", "pareto"]
    x: str
    y: str | None = None
    metric: str | None = None
    by: str | None = None
    log_x: bool = False


class Capacity(BaseModel):
    """A search for the highest rate that still meets the objectives.

    share: of the requests that have to meet their objectives (failed ones do not). low, high:
    rates between which to search, requests a second. tolerance: the search ends when the rate
    that meets and the rate that does not are no further apart than this share of the former.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    low: Rate
    high: Rate
    share: Share = 0.9
    tolerance: Annotated[float, Field(gt=0, le=1)] = 0.05


class Study(Comparison):
    """One question: what stays the same, what varies, what is shown.

    All fields of a comparison say what stays the same. Then:

    title, question, answer, notes: words of its page (Markdown); the answer is what its author
    read from the results. seeds: how many (counted up from ``seed``), or which. grid: what varies,
    an axis a key; all combinations are run. A key is a field of a run (``kv_tokens``,
    ``policy_options.block_size``) with a list of values; or any name with a list of tables, each
    with a ``label`` and the fields that it sets. points: such tables listed one by one, one more
    axis. policies: the first axis, unless ``grid`` or ``points`` say it. compared: the axis
    whose labels are compared within a table (by default ``policy`` if it has several, else the
    first). metrics: shown in tables. judged: those of them that sentences are about, by default
    the first. plots: pictures wanted. capacity: also search the highest rate that meets the
    objectives. experiments: of `kvlab reproduce`, shown on the same page. tolerances: for the
    regression gate, by metric, relative to the baseline; without one a metric has to be equal.
    """

    title: str = ""
    question: str = ""
    answer: str = ""
    notes: str = ""
    seeds: Count | tuple[Annotated[int, Field(ge=0, lt=1 << 63)], ...] = 6
    grid: dict[str, Any] = Field(default_factory=dict)
    points: tuple[dict[str, Any], ...] = ()
    compared: str | None = None
    metrics: Annotated[tuple[str, ...], Field(min_length=1)] = METRICS_SHOWN
    judged: tuple[str, ...] = ()
    plots: tuple[PlotWanted, ...] = ()
    capacity: Capacity | None = None
    experiments: tuple[str, ...] = ()
    tolerances: dict[str, Tolerance] = Field(default_factory=dict)

    @classmethod
    def load(cls, path: Path) -> Self:
        """The study in a file; raises `InputError` naming file and field."""
        return cls.of(read_toml(path), f"{path}: ")

    @classmethod
    def of(cls, fields: dict[str, Any], where: str = "") -> Self:
        """The study with these fields, checked as far as that goes without running it."""
        study = super().of(fields, where)
        try:
            study._check()
        except InputError as error:
            raise InputError(f"{where}{error}") from None
        return study

    def _check(self) -> None:
        axes, seeds = self.axes(), self.seeds_listed()
        if not seeds or len(set(seeds)) < len(seeds):
            raise InputError("seeds: expected at least one, and each once")
        _one_of("compared", self.compared_axis(), (axis.name for axis in axes))
        for name in self.metrics:
            _one_of("metrics", name, metric_names())
        for name in self.judged:
            _one_of("judged", name, self.metrics)
        for name in self.experiments:
            _one_of("experiments", name, EXPERIMENTS)
        for name in self.tolerances:
            _one_of("tolerances", name, metric_names())
        for plot in self.plots:
            self._check_plot(plot, [axis.name for axis in axes])
        if self.capacity is not None:
            if any(axis.sets("rate") for axis in axes):
                raise InputError("capacity: searches the rate, so rate cannot be an axis too")
            if not self.capacity.low < self.capacity.high:
                raise InputError("capacity: expected low below high")

    def _check_plot(self, plot: PlotWanted, axes: list[str]) -> None:
        known = axes if plot.kind != "pareto" else metric_names()
        _one_of("plots.x", plot.x, known)
        if plot.kind in ("heat", "pareto"):
            _one_of("plots.y", plot.y or "", known)
        if plot.kind != "pareto":
            _one_of("plots.metric", plot.metric or "", metric_names())
        if plot.by is not None:
            _one_of("plots.by", plot.by, axes)

    def axes(self) -> list[Axis]:
        """What varies, the slowest first. Raises `InputError` for what cannot be an axis."""
        axes = [axis_of_grid(name, values) for name, values in flattened(self.grid)]
        if self.points:
            axes.append(axis_of_points(self.points))
        says_policy = any(axis.sets("policy") for axis in axes)
        if says_policy and "policies" in self.model_fields_set:
            raise InputError("policies: grid or points say the policies too; say them once")
        if not says_policy:
            axes.insert(0, axis_of_policies(self.policies))
        names = [axis.name for axis in axes]
        for name in names:
            if names.count(name) > 1:
                raise InputError(f"grid: two axes are called {name!r}")
        return axes

    def compared_axis(self) -> str:
        """The axis whose labels are compared with each other."""
        if self.compared is not None:
            return self.compared
        axes = self.axes()
        several = [axis.name for axis in axes if len(axis.values) > 1]
        return "policy" if "policy" in several or not several else several[0]

    def seeds_listed(self) -> tuple[int, ...]:
        """Every seed, in order."""
        if isinstance(self.seeds, tuple):
            return self.seeds
        return tuple(range(self.seed, self.seed + self.seeds))

    def base(self) -> dict[str, Any]:
        """What all points share, as fields of a run that the file itself sets."""
        common = RunConfig.model_fields.keys() & self.model_fields_set - {"policy_options"}
        stated = self.model_dump(include=common, exclude_unset=True)
        return {name: stated[name] for name in sorted(common)}


def _one_of(field: str, name: str, known: Iterable[str]) -> None:
    known = list(known)
    if name not in known:
        raise InputError(f"{field}: {name!r} is none; {suggestion_for(name, known)}")
