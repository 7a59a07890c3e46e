"""Experiments of `kvlab reproduce` as part of a study: run and stored like points."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from pydantic import TypeAdapter

from kvlab.reproduce import experiment_of
from kvlab.reproduce.findings import Reproduction
from kvlab.study.points import digest_of
from kvlab.study.schema import Study
from reports.plots import Picture, rendered
from reports.sweep import Sweep
from workloads.errors import InputError


@dataclass(frozen=True)
class Experiment:
    """One experiment of a study."""

    name: str

    @property
    def id(self) -> str:
        """The digest of its name and of the code; it has no other input."""
        return digest_of(self.stated)

    @property
    def stated(self) -> dict[str, Any]:
        """What was asked, as plain data."""
        return {"experiment": self.name}

    def found(self) -> Reproduction:
        """Run it."""
        found: Reproduction = experiment_of(self.name).reproduce(None)
        return found


def experiments_of(study: Study) -> list[Experiment]:
    """The experiments that a study asks for; raises `InputError` for one that needs files."""
    for name in study.experiments:
        if getattr(experiment_of(name), "FILES", ()):
            raise InputError(f"experiments: {name} needs --data, which a study has not")
    return [Experiment(name) for name in study.experiments]


def stored_experiments(sweep: Sweep) -> list[tuple[str, Reproduction]]:
    """Name and findings of every experiment of a sweep that is done."""
    adapter = TypeAdapter(Reproduction)
    return [
        (entry["labels"][0], adapter.validate_python(found))
        for entry in sweep.index["experiments"]
        if (found := sweep.experiment_of(entry)) is not None
    ]


def picture_of(name: str, found: Reproduction) -> Picture | None:
    """The picture of an experiment, if it has one."""
    module = experiment_of(name)
    if not hasattr(module, "draw"):
        return None
    png, svg = rendered(partial(module.draw, found))
    return Picture(name, module.TITLE, "", png, svg)
