"""Calibrations that ship with kvlab: what `kvlab calibrate` measured on real devices, as JSON.

A file is added together with the run that made it; there is none for a device nobody measured.
"""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent


def calibration_names() -> list[str]:
    """Names of the shipped files, sorted: ``calibration:NAME`` reads one."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def calibration_path(name_or_path: str) -> Path:
    """The shipped file of that name, else the path itself."""
    if name_or_path in calibration_names():
        return FOLDER / f"{name_or_path}.json"
    return Path(name_or_path)
