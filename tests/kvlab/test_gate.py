"""The regression gate: a policy made worse is named, and what cannot be compared is refused."""

import json
import xml.etree.ElementTree as ElementTree

import pytest
from typer.testing import CliRunner

import sim.policies.paged
from kvlab.cli import application
from kvlab.running import run
from kvlab.study.gate import baseline_of, check
from kvlab.study.points import points_of
from kvlab.study.ready import ready_study
from kvlab.study.schema import Study
from reports import gate_output
from reports.gate import CANARY, shown
from sim.registries import POLICIES
from workloads.errors import InputError

STUDY = """
title = "Small gate"
workload = "chat"
requests = 10
rate = 8.0
seeds = 2
max_seqs = 8
kv_tokens = 4096
policies = ["contiguous", "paged"]
tolerances = { "goodput_rps" = 0.01 }
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gate")
    (folder / "study.toml").write_text(STUDY)
    study = Study.load(folder / "study.toml")
    baseline_of(study, jobs=1).save(folder / "base.json")
    return folder / "base.json"


def kvlab(*arguments):
    return CliRunner().invoke(application(), list(map(str, arguments)))


def worsen(monkeypatch):
    """Paged finds nothing in its prefix cache any more."""
    monkeypatch.setattr(sim.policies.paged.Paged, "lookup", lambda self, seq: 0)


def test_without_a_change_all_numbers_are_equal(saved):
    verdict, now = check(saved, jobs=1)
    assert verdict.passes
    assert verdict.compared > 150
    assert "all" in verdict.headline
    assert [point.seed for point in now] == [0, 1, 0, 1]


def test_a_policy_made_worse_is_named_with_what_changed(saved, monkeypatch, tmp_path):
    worsen(monkeypatch)
    files = {
        name: tmp_path / name for name in ("junit", "markdown", "smaller", "bigger", "bencher")
    }
    options = [part for name, path in files.items() for part in (f"--{name}", path)]
    done = kvlab("check", "--baseline", saved, "--jobs", "1", *options)
    assert done.exit_code == 1
    assert "worse: paged (Prefix hits, " in done.stdout
    assert "contiguous" not in done.stdout
    row = next(line for line in done.stdout.splitlines() if "Prefix hits" in line)
    assert "-100.0 %" in row
    assert "2/2" in row
    assert "worse" in row
    # The canary comes first.
    assert done.stdout.index("Prefix hits") < done.stdout.index("TTFT mean")

    suite = ElementTree.parse(files["junit"]).getroot().find("testsuite")
    assert (suite.get("tests"), suite.get("failures")) == ("2", "1")
    broken = {case.get("name"): case.find("failure") for case in suite}
    assert broken["contiguous"] is None
    assert "prefix_hit_tokens worse" in broken["paged"].get("message")
    assert "### ❌ Small gate" in files["markdown"].read_text()
    assert "| paged | Prefix hits (tokens) |" in files["markdown"].read_text()
    rows = {row["name"]: row for row in json.loads(files["bigger"].read_text())}
    assert rows["paged/prefix_hit_tokens"]["value"] == 0
    assert rows["contiguous/goodput_rps"]["unit"] == "req/s"
    assert "paged/ttft_s.p99" in {row["name"] for row in json.loads(files["smaller"].read_text())}
    assert "ttft-s-p99" in json.loads(files["bencher"].read_text())["paged"]


def test_better_fails_too_unless_it_is_allowed(saved, monkeypatch, tmp_path):
    text = saved.read_text()
    found = json.loads(text)
    for point in found["points"]:
        if point["labels"] == ["paged"]:
            point["metrics"]["prefix_hit_tokens"] -= 16
    (tmp_path / "old.json").write_text(json.dumps(found))
    done = kvlab("check", "--baseline", tmp_path / "old.json", "--jobs", "1")
    assert done.exit_code == 1
    assert "better: paged (Prefix hits)." in done.stdout
    done = kvlab("check", "--baseline", tmp_path / "old.json", "--jobs", "1", "--allow-better")
    assert done.exit_code == 0


def test_tolerances_hold_for_their_metric_alone(saved, tmp_path):
    found = json.loads(saved.read_text())
    for point in found["points"]:
        point["metrics"]["goodput_rps"] *= 1.009
    (tmp_path / "near.json").write_text(json.dumps(found))
    assert check(tmp_path / "near.json", jobs=1)[0].passes
    for point in found["points"]:
        point["metrics"]["goodput_rps"] *= 1.01
        point["metrics"]["ttft_s.p99"] *= 1 + 1e-15 * 4
    (tmp_path / "far.json").write_text(json.dumps(found))
    changes = check(tmp_path / "far.json", jobs=1)[0].changes
    assert {change.metric for change in changes} == {"goodput_rps", "ttft_s.p99"}


def test_small_changes_are_shown_in_their_unit_with_digits_that_differ(saved, tmp_path):
    found = json.loads(saved.read_text())
    for point in found["points"]:
        point["metrics"]["tpot_s.mean"] *= 1 + 1e-7
    (tmp_path / "near.json").write_text(json.dumps(found))
    changes = check(tmp_path / "near.json", jobs=1)[0].changes
    assert len(changes) == 2
    for change in changes:
        label, before, after, _ = shown(change)
        assert label == "TPOT mean (ms)"
        assert before != after
        assert float(before) == pytest.approx(1e3 * change.before, rel=1e-6)
        assert len(before) < 12


def test_a_point_that_fails_now_is_worse(saved, monkeypatch):
    def broken(self, seq):
        raise ValueError("lost my cells")

    monkeypatch.setattr(sim.policies.paged.Paged, "lookup", broken)
    verdict, _ = check(saved, jobs=1)
    assert [(c.point, c.metric, c.kind) for c in verdict.changes] == [("paged", "failure", "worse")]
    assert "ran -> ValueError: lost my cells" in gate_output.text(verdict)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda found: found.update(format=0, kvlab="0.0.1"), "has format 0 (kvlab 0.0.1)"),
        (lambda found: found.update(kind="other"), "is no baseline"),
        (lambda found: found["points"][0].pop("seed"), "damaged baseline"),
        (
            lambda found: found["points"][0]["config"].update(page_size=4),
            "contiguous: cannot be compared: unknown field 'page_size'",
        ),
        (
            lambda found: found["points"][0].update(files={"gone.csv": "abc"}),
            "contiguous: cannot be compared: gone.csv is missing since it was saved",
        ),
    ],
)
def test_what_cannot_be_compared_is_refused_in_one_line(saved, tmp_path, change, expected):
    found = json.loads(saved.read_text())
    change(found)
    (tmp_path / "base.json").write_text(json.dumps(found))
    with pytest.raises(InputError, match=r"^[^\n]*$") as refused:
        check(tmp_path / "base.json", jobs=1)
    assert expected in str(refused.value)


def test_another_version_is_said_and_compared(saved, tmp_path):
    found = json.loads(saved.read_text())
    found["kvlab"] = "0.0.9"
    (tmp_path / "base.json").write_text(json.dumps(found))
    verdict, _ = check(tmp_path / "base.json", jobs=1)
    assert verdict.passes
    assert "saved by kvlab 0.0.9" in gate_output.text(verdict)


def test_the_ready_gate_covers_every_policy_that_comes_with_kvlab():
    policies = {
        point["policy"] if isinstance(point, dict) else point
        for point in ready_study("gate").grid["policy"]
    }
    own = {name for name in POLICIES.names() if POLICIES.load(name).__module__.startswith("sim.")}
    assert policies == own


def test_every_number_of_the_canary_counts_something_in_the_ready_gate():
    """A few of its runs are enough; a number that is zero in all of them could not sing."""
    found = dict.fromkeys(CANARY, 0)
    for point in {point.labels: point for point in points_of(ready_study("gate"))}.values():
        if point.labels[0] in ("contiguous, exact", "paged, swap", "ring, llama-server"):
            summary = run(point.config, with_maps=False).summary
            assert all(isinstance(summary[name], int) for name in CANARY)
            found = {name: n + summary[name] for name, n in found.items()}
    assert all(found.values()), found


def test_save_says_what_it_kept(tmp_path):
    (tmp_path / "study.toml").write_text(STUDY.replace("seeds = 2", "seeds = 1"))
    done = kvlab("baseline", "save", tmp_path / "b.json", tmp_path / "study.toml", "--jobs", "1")
    assert done.exit_code == 0
    assert "2 runs (0 failed)" in done.stdout
