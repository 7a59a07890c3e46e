"""The modules that mypyc may compile: they can be, and what it makes of them runs the same.

The first two need mypy only. The last compares with a compiled kvlab where one is installed
(`make compiled`).
"""

import ast
import filecmp
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
COMPILED = ROOT / ".venv-compiled/bin/python"
RUNS = [
    ["--policies", "paged", "--workload", "chat", "--requests", "60"],
    ["--policies", "paged", "--workload", "agent", "--requests", "20", "--model", "gemma-3-12b"],
    ["--policies", "ring", "--workload", "sharegpt", "--requests", "40"],
    ["--policies", "iswa", "--workload", "sharegpt", "--requests", "40", "--model", "gemma-3-12b"],
    ["--policies", "radix", "--workload", "few-shot", "--requests", "40"],
    ["--policies", "contiguous", "--workload", "beam-search", "--requests", "10"],
]
TRANSLATE = """
import sys
from mypyc.build import mypycify
files, target = sys.argv[2:], sys.argv[1]
sys.argv = ["setup.py", "build_ext"]
mypycify(["--config-file=", "--ignore-missing-imports", *files], target_dir=target)
"""


def compiled_files() -> list[str]:
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    return [name.lstrip("/") for name in build["targets"]["wheel"]["hooks"]["mypyc"]["include"]]


def classes_in(path: Path) -> list[ast.ClassDef]:
    return [
        node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ClassDef)
    ]


def test_they_translate(tmp_path):
    files = compiled_files()
    done = subprocess.run(
        [sys.executable, "-c", TRANSLATE, str(tmp_path), *files],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert list(tmp_path.glob("*.c"))


def test_classes_that_others_build_on_say_so():
    """A compiled class without the mark cannot be subclassed by one that is not compiled."""
    files = {ROOT / name for name in compiled_files()}
    unmarked = {
        node.name
        for path in files
        for node in classes_in(path)
        if not any("mypyc_attr" in ast.unparse(mark) for mark in node.decorator_list)
    }
    others = [
        path for package in ("sim", "backends", "kvlab") for path in (ROOT / package).rglob("*.py")
    ]
    wrong = []
    for path in set(others) - files:
        imported = {
            alias.asname or alias.name
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.ImportFrom)
            and f"{(node.module or '').replace('.', '/')}.py" in compiled_files()
            for alias in node.names
        }
        for node in classes_in(path):
            bases = {ast.unparse(base) for base in node.bases}
            wrong += [f"{path.name}: {node.name}({base})" for base in bases & imported & unmarked]
    assert not wrong


@pytest.mark.skipif(not COMPILED.exists(), reason="no compiled kvlab (make compiled)")
@pytest.mark.parametrize("run", RUNS, ids=lambda run: f"{run[1]}-{run[3]}")
def test_compiled_runs_write_the_same_bytes(run, tmp_path):
    for python, place in ((sys.executable, "source"), (str(COMPILED), "compiled")):
        command = [python, "-m", "kvlab", "compare", *run, "--seed", "7", "--out", place]
        subprocess.run(command, check=True, cwd=tmp_path, capture_output=True)
    where = "import sim.engine; print(sim.engine.__file__)"
    found = subprocess.run([COMPILED, "-c", where], cwd=tmp_path, capture_output=True, text=True)
    assert not found.stdout.strip().endswith(".py")
    names = [path.relative_to(tmp_path / "source") for path in (tmp_path / "source").glob("*/*.*")]
    names = [name for name in names if name.parts[0] != "plots"]
    assert names
    _, different, missing = filecmp.cmpfiles(
        tmp_path / "source", tmp_path / "compiled", map(str, names), shallow=False
    )
    assert not different and not missing


@pytest.mark.skipif(not COMPILED.exists(), reason="no compiled kvlab (make compiled)")
def test_a_compiled_kvlab_tells_kinds_of_policies_apart(tmp_path):
    command = [str(COMPILED), "-m", "kvlab", "compare", "--policies", "contiguous"]
    command += ["--scheduler", "llama-server", "--requests", "3"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "has no slots of llama.cpp" in done.stderr
