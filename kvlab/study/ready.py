"""The studies that come with kvlab: one TOML file each, beside this package in ``studies``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kvlab.study.schema import Study
from workloads.errors import InputError
from workloads.registry import suggestion_for

FOLDER = Path(__file__).resolve().parent.parent / "studies"


def study_names() -> list[str]:
    """Names of all ready studies."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def ready_study(name: str) -> Study:
    """The ready study of that name; raises `InputError` with the closest known one."""
    if name not in study_names():
        raise InputError(f"unknown study {name!r}; {suggestion_for(name, study_names())}")
    return Study.load(FOLDER / f"{name}.toml")


def study_at(spec: str) -> Study:
    """A ready study by its name, or the one in a file that ends in ``.toml``."""
    return Study.load(Path(spec)) if spec.endswith(".toml") else ready_study(spec)


TRAFFIC = ("workload", "workload_options", "requests", "rate")
"""Fields of a run that say what the requests are."""


def with_traffic(study: Study, workload: str, requests: int | None, rate: float | None) -> Study:
    """The study over another workload, a trace of one's own say, with nobody's answer.

    requests: of a generator, or at most so many of a trace; rate: requests a second, by default the
    trace's own. Raises `InputError` where the study varies its traffic itself.
    """
    for axis in study.axes():
        for field in TRAFFIC:
            if field != "rate" and axis.sets(field):
                raise InputError(f"--workload: {axis.name} of this study says the traffic itself")
    stated: dict[str, Any] = study.model_dump(exclude_unset=True)
    kept = {name: value for name, value in stated.items() if name not in (*TRAFFIC, "answer")}
    given = {"workload": workload, "requests": requests, "rate": rate}
    return Study.of({**kept, **{name: value for name, value in given.items() if value is not None}})
