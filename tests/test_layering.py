"""Imports go downwards only: workloads <- sim <- backends, reports <- kvlab."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAY_IMPORT = {
    "workloads": {"workloads"},
    "sim": {"workloads", "sim"},
    "backends": {"workloads", "sim", "backends"},
    "reports": {"workloads", "sim", "reports"},
    "kvlab": {"workloads", "sim", "backends", "reports", "kvlab"},
}
FILES = [path for package in MAY_IMPORT for path in sorted((ROOT / package).rglob("*.py"))]


def imported_by(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module or "")
    return {name.partition(".")[0] for name in names}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_downwards(path):
    package = path.relative_to(ROOT).parts[0]
    ours = imported_by(path) & set(MAY_IMPORT)
    assert ours <= MAY_IMPORT[package]


@pytest.mark.parametrize("module", ["sim.policies.ring", "sim.policies.paged", "sim.checking"])
def test_policies_need_numpy_only(module):
    heavy = "pandas pyarrow matplotlib pydantic scipy simpy typer rich jinja2".split()
    code = f"import sys, {module}; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == "[]"
