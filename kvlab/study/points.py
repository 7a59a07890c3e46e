"""The points of a study: one configuration for each combination of labels and each seed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from itertools import product
from pathlib import Path
from typing import Any

import kvlab
from kvlab.config import RunConfig
from kvlab.study.axes import Value, merged
from kvlab.study.code import code_digest, digest_of_file, modules_of
from kvlab.study.schema import Study
from reports.sweep import FORMAT
from workloads.errors import InputError
from workloads.registry import suggestion_for

ID_LENGTH = 20
"""Hexadecimal digits of a point's id: enough that no two configurations share one."""


@dataclass(frozen=True)
class Point:
    """One run of a study. labels: where it lies, one an axis."""

    labels: tuple[str, ...]
    config: RunConfig

    @property
    def id(self) -> str:
        """The digest of everything that the result follows from."""
        return digest_of({"run": self.stated})

    @property
    def stated(self) -> dict[str, Any]:
        """The configuration as plain data."""
        return self.config.model_dump(mode="json", exclude_none=True)


def points_of(study: Study) -> list[Point]:
    """All points, seeds the fastest; raises `InputError` naming the first that cannot be.

    A workload that draws nothing (a trace) gets one seed only: further ones would repeat it.
    """
    points = []
    for labels, fields in combinations_of(study):
        for seed in seeds_of(study, fields):
            where = f"{', '.join(labels)}: " if labels else ""
            points.append(Point(labels, RunConfig.of({**fields, "seed": seed}, where)))
    for config in {_plugins_of(point.config): point.config for point in points}.values():
        _check_plugins(config)
    return points


def combinations_of(study: Study) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """The labels and the fields of a run, without its seed, of each combination."""
    axes = study.axes()
    named: set[str] = set()
    for values in product(*(axis.values for axis in axes)):
        fields = reduce(merged, (value.fields for value in values), study.base())
        policy = fields.get("policy")
        if policy is None:
            raise InputError(f"points: {_at(values)} says no policy")
        named.add(policy)
        own = study.policy_options.get(policy, {})
        fields["policy_options"] = {**own, **fields.get("policy_options", {})}
        yield tuple(value.label for value in values), fields
    for name in study.policy_options:
        if name not in named:
            hint = suggestion_for(name, named)
            raise InputError(f"policy_options.{name}: not among the policies; {hint}")


def seeds_of(study: Study, fields: dict[str, Any]) -> tuple[int, ...]:
    """The seeds of one combination: all, or the first where the workload draws nothing."""
    seeds = study.seeds_listed()
    spec = fields.get("workload", RunConfig.model_fields["workload"].default)
    return seeds if draws(spec) else seeds[:1]


def draws(workload: str) -> bool:
    """Whether a workload is a generator with a seed; raises `InputError` for an unknown one."""
    from dataclasses import fields as fields_of

    from workloads.plugins import class_of
    from workloads.spec import WORKLOADS

    cls, _ = class_of(WORKLOADS, workload)
    return any(each.name == "seed" for each in fields_of(cls))


def digest_of(value: Any) -> str:
    """A name for ``value`` (plain data), the files that it mentions, and the code that runs it."""
    known = {
        "format": FORMAT,
        "kvlab": kvlab.__version__,
        "code": code_digest(),
        "modules": modules_of(value),
        "files": files_of(value),
    }
    text = json.dumps([known, value], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:ID_LENGTH]


def files_of(value: Any) -> dict[str, str]:
    """Digests of the files that a configuration names (``READER:PATH`` or a path), by name."""
    found: dict[str, str] = {}
    if isinstance(value, dict):
        for each in value.values():
            found |= files_of(each)
    elif isinstance(value, str):
        for name in (value, value.partition(":")[2]):
            path = Path(name)
            if ("." in name or "/" in name) and path.is_file():
                found[name] = digest_of_file(path)
    return found


def _at(values: tuple[Value, ...]) -> str:
    return ", ".join(value.label for value in values)


def _plugins_of(config: RunConfig) -> str:
    options = [config.policy_options, config.scheduler_options, config.workload_options]
    traffic = [config.workload, config.requests, config.rate]
    return repr([config.policy, config.scheduler, traffic, options])


def _check_plugins(config: RunConfig) -> None:
    """Refuse unknown plug-ins and options before anything runs (traces are not read yet)."""
    from sim.registries import POLICIES, SCHEDULERS
    from workloads.plugins import check_options, made
    from workloads.spec import workload_of

    for registry, name, options in (
        (POLICIES, config.policy, config.policy_options),
        (SCHEDULERS, config.scheduler, config.scheduler_options),
    ):
        try:
            check_options(made(registry.load(name).Options, options))
        except InputError as error:
            raise InputError(str(error).replace("Options", name, 1)) from None
    if draws(config.workload):
        given = {"requests": config.requests, "rate": config.rate, **config.workload_options}
        workload_of(config.workload, **given)
