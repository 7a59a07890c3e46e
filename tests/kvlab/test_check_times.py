"""`kvlab check --old`: two installations in turns, and what is said of them."""

import sys
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
    done = CliRunner().invoke(application(), [*arguments, "--markdown", str(tmp_path / "m.md")])
    assert done.exit_code == status, done.output
    assert ("slower" in done.stdout) == bool(status)
    assert ("at entry 13 of 24" in done.stdout) == bool(status)
    assert "| ring |" in (tmp_path / "m.md").read_text()
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
