"""What runs on a bare GPU machine needs NumPy and the standard library only."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from backends.__main__ import POLICIES

BARE = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {missing!r}:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Missing())
import importlib.metadata

importlib.metadata.entry_points = lambda **group: ()
import sim.timing.calibration
from backends.__main__ import main
from backends.verification import scenarios

scenarios.GENERAL = scenarios.GENERAL[:1]
scenarios.ESPECIALLY = {{"hybrid": scenarios.ESPECIALLY["hybrid"][:1]}}
scenarios.FORMATS = {{}}
sys.exit(main(["verify"]))
"""
MISSING = {
    *("pandas", "pydantic", "scipy", "simpy", "pyarrow", "matplotlib", "rich", "typer"),
    *("jinja2", "tomli_w", "joblib", "cupy"),
}


def test_verification_and_calibration_need_numpy_only():
    done = subprocess.run(
        [sys.executable, "-c", BARE.format(missing=MISSING)],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr
    passed = {line.partition(",")[0] for line in done.stdout.splitlines() if ": passed, " in line}
    assert passed == set(POLICIES)
