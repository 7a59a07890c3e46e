"""Results of other code are never taken for one's own: ids of points follow the code."""

import importlib
import sys

import pytest

from kvlab.study import code
from kvlab.study.points import points_of
from kvlab.study.schema import Study

PLUGIN = "from sim.policies.contiguous import Contiguous\n\nclass Mine(Contiguous):\n    pass\n"


@pytest.fixture
def tree(tmp_path):
    for name in ("workloads", "sim/models", "backends", "kvlab/studies", "reports"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "sim" / "engine.py").write_text("a = 1\n")
    (tmp_path / "sim" / "models" / "m.toml").write_text("layers = 2\n")
    return tmp_path


@pytest.mark.parametrize(
    ("path", "matters"),
    [
        ("sim/engine.py", True),
        ("sim/models/m.toml", True),
        ("backends/new.py", True),
        ("kvlab/running.py", True),
        ("kvlab/studies/mine.toml", False),
        ("reports/page.py", False),
    ],
)
def test_the_digest_follows_what_runs_go_through(tree, path, matters):
    before = code.digest_of_tree(tree)
    assert code.digest_of_tree(tree) == before
    (tree / path).write_text("b = 22\n")
    assert (code.digest_of_tree(tree) != before) is matters


def test_points_of_other_code_have_other_ids(monkeypatch, tmp_path):
    study = Study.of({"workload": "chat", "kv_tokens": 4096, "policies": ["ring"], "seeds": 1})
    before = points_of(study)[0].id
    monkeypatch.setattr("kvlab.study.points.code_digest", lambda: "other")
    assert points_of(study)[0].id != before


def test_a_plug_in_of_ones_own_counts_with_its_module(monkeypatch, tmp_path):
    (tmp_path / "my_policy_for_tests.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    fields = {"workload": "chat", "kv_tokens": 4096, "seeds": 1}
    study = Study.of({**fields, "policies": ["my_policy_for_tests:Mine"]})
    before = points_of(study)[0].id
    assert points_of(study)[0].id == before
    (tmp_path / "my_policy_for_tests.py").write_text(PLUGIN.replace("pass", "x = 1"))
    assert points_of(study)[0].id != before
    # As an entry point of another distribution would name it.
    named = {"mine": "my_policy_for_tests:Mine"}
    monkeypatch.setattr(code, "_of_others", lambda: named)
    assert code.modules_of({"policy": "mine:x=1"}).keys() == {"my_policy_for_tests"}
    assert code.modules_of({"policy": "ring", "workload": "azure:trace"}) == {}
    importlib.invalidate_caches()
    sys.modules.pop("my_policy_for_tests")
