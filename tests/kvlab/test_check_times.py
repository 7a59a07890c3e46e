"""`kvlab check --old`: two installations in turns, and what is said of them."""

import json
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from kvlab.cli import application
from kvlab.study.paired import paired_times
from reports.timing_history import History, machine
from workloads.errors import InputError

STUDY = 'workload = "sharegpt"\nrequests = 3\nkv_tokens = 4096\npolicies = ["contiguous"]\n'


def test_both_installations_run_the_same_comparison(tmp_path):
    (tmp_path / "study.toml").write_text(STUDY)
    turns = []
    old, new = paired_times(
        Path(sys.executable), tmp_path / "study.toml", 2, lambda done, _: turns.append(done)
    )
    assert turns == [1, 2]
    assert [len(times["contiguous"]) for times in (old, new)] == [2, 2]
    assert min(old["contiguous"] + new["contiguous"]) > 0
    with pytest.raises(InputError, match=r"kvlab compare /nowhere.toml failed: .*cannot be read"):
        paired_times(Path(sys.executable), Path("/nowhere.toml"), 1)
    with pytest.raises(InputError, match="cannot be run"):
        paired_times(tmp_path / "python", tmp_path / "study.toml", 1)


@pytest.mark.parametrize(("slower", "status"), [(1.0, 0), (1.08, 1)])
def test_slower_fails_the_check_and_the_history_remembers(tmp_path, monkeypatch, slower, status):
    rng = np.random.default_rng(5)
    noise = lambda: list(np.exp(rng.normal(0, 0.01, 30)))  # noqa: E731
    new = [slower * each for each in noise()]
    times = {"ring": noise()}, {"ring": new}
    monkeypatch.setattr("kvlab.study.paired.paired_times", lambda *_: times)
    past = tmp_path / "history.jsonl"
    earlier = History(())
    for _ in range(12):
        earlier = earlier.with_times({"ring": noise()})
    for _ in range(11):
        earlier = earlier.with_times({"ring": new})
    earlier.save(past)
    arguments = ["check", "--old", "python", "--history", str(past)]
    files = {name: tmp_path / name for name in ("markdown", "junit", "smaller", "bencher")}
    options = [part for name, path in files.items() for part in (f"--{name}", str(path))]
    done = CliRunner().invoke(application(), [*arguments, *options])
    assert done.exit_code == status, done.output
    assert ("slower" in done.stdout) == bool(status)
    assert ("at entry 13 of 24" in done.stdout) == bool(status)
    assert "| ring |" in files["markdown"].read_text()
    suite = ElementTree.parse(files["junit"]).getroot().find("testsuite")
    assert (suite.get("tests"), suite.get("failures")) == ("1", str(status))
    (row,) = json.loads(files["smaller"].read_text())
    assert row == {
        "name": "ring/cpu_s",
        "unit": "s",
        "value": pytest.approx(np.median(new)),
        "range": row["range"],
    }
    assert json.loads(files["bencher"].read_text())["ring"]["cpu-s"]["value"] == row["value"]
    assert len(History.load(past).entries) == 24


def test_times_of_other_machines_are_not_looked_at(tmp_path):
    other = [{"machine": "elsewhere", "times": {"ring": 2.0}}] * 20
    here = [{"machine": machine(), "times": {"ring": 1.0}}] * 20
    assert list(History((*other, *here)).lines()) == []
    (tmp_path / "h.jsonl").write_text('{"machine": "x", "times": {}}\n{"machine": 1\n')
    with pytest.raises(InputError, match=r"h.jsonl:2: expected machine and times"):
        History.load(tmp_path / "h.jsonl")


def test_nothing_to_check_is_refused():
    done = CliRunner().invoke(application(), ["check"])
    assert isinstance(done.exception, InputError)
