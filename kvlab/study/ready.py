"""The studies that come with kvlab: one TOML file each, beside this package in ``studies``."""

from __future__ import annotations

from pathlib import Path

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
