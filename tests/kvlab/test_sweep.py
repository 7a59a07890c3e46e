"""Sweeps: what is stored, what a study may say, and what is left after being killed."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kvlab.study.points import points_of
from kvlab.study.schema import Study
from kvlab.study.sweeping import sweep
from reports.sweep import FORMAT, Sweep, sweep_at
from workloads.errors import InputError

KVLAB = [sys.executable, "-c", "from kvlab.cli import main; main()"]
SMALL = {"workload": "chat", "requests": 12, "rate": 6.0, "kv_tokens": 4096, "max_seqs": 8}
STUDY = """
title = "Small"
workload = "chat"
requests = 15
rate = 6.0
max_seqs = 8
seeds = 6
policies = ["ring", "contiguous"]
[grid]
kv_tokens = [2048, 4096]
"""


def files_of(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def study_of(**fields) -> Study:
    return Study.of({**SMALL, "seeds": 2, "policies": ["contiguous"], **fields})


# What a study may say.


def test_all_combinations_with_all_seeds_in_the_order_of_the_file():
    study = study_of(
        policies=["ring", "paged"],
        seed=5,
        policy_options={"paged": {"prefix_cache": False}},
        grid={
            "kv_tokens": [2048, 4096],
            "load": [
                {"label": "light", "rate": 1.0},
                {"label": "heavy", "rate": 9.0, "workload_options": {"turns": 2.0}},
            ],
        },
    )
    points = points_of(study)
    assert len(points) == len({point.id for point in points}) == 16
    assert points[0].labels == ("ring", "2048", "light")
    assert [point.config.seed for point in points[:3]] == [5, 6, 5]
    last = points[-1].config
    assert last.model_dump(include={"policy", "kv_tokens", "rate", "seed"}) == {
        "policy": "paged",
        "kv_tokens": 4096,
        "rate": 9.0,
        "seed": 6,
    }
    assert last.workload_options == {"turns": 2.0}
    assert last.policy_options == {"prefix_cache": False}


def test_listed_points_are_an_axis_and_replace_memory_said_otherwise():
    study = Study.of(
        {
            **SMALL,
            "seeds": 1,
            "points": [
                {"label": "a", "policy": "paged", "policy_options": {"block_size": 8}},
                {"label": "b", "policy": "ring", "kv_memory": "1GiB"},
            ],
        }
    )
    one, two = (point.config for point in points_of(study))
    assert (one.policy, one.policy_options, one.kv_tokens) == ("paged", {"block_size": 8}, 4096)
    assert (two.policy, two.kv_memory, two.kv_tokens) == ("ring", 2**30, None)


def test_a_trace_has_nothing_to_draw_and_gets_one_run(tmp_path):
    trace = tmp_path / "trace.csv"
    trace.write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,374,44\n"
    )
    study = study_of(grid={"workload": [f"azure:{trace}", "chat"]}, seeds=3)
    assert [point.config.seed for point in points_of(study)] == [0, 0, 1, 2]
    before = points_of(study)[0].id
    trace.write_text(trace.read_text().replace("374", "375"))
    os.utime(trace, ns=(1, 1))
    assert points_of(study)[0].id != before


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"worklod": "chat"}, "unknown field 'worklod'; did you mean 'workload'?"),
        ({"plots": [{"kind": "lines", "x": "policy", "metrik": "a"}]}, "did you mean 'metric'"),
        ({"capacity": {"low": 1, "hihg": 2}}, "did you mean 'high'"),
        ({"capacity": {"low": 2, "high": 1}}, "expected low below high"),
        ({"capacity": {"low": 1, "high": 2}, "grid": {"rate": [1]}}, "rate cannot be an axis"),
        ({"metrics": ["goodput"]}, "did you mean 'goodput_rps'"),
        ({"metrics": []}, "metrics: "),
        ({"seeds": [3, 4, 3]}, "seeds: expected at least one, and each once"),
        ({"seeds": []}, "seeds: expected at least one, and each once"),
        ({"tolerances": {"ttft.p99": 0.1}}, "did you mean 'ttft_s.p99'"),
        ({"compared": "polcy"}, "did you mean 'policy'"),
        ({"grid": {"kv_tokns": [1]}}, "did you mean 'kv_tokens'"),
        ({"grid": {"kv_tokens": []}}, "at least one value"),
        ({"grid": {"kv_tokens": 4096}}, "expected a list of values"),
        ({"grid": {"kv_tokens": [64, 64]}}, "'64' comes twice"),
        ({"grid": {"seed": [1]}}, "its field 'seeds'"),
        ({"grid": {"policy_options": [1]}}, "policy_options.KEY"),
        ({"grid": {"load": [{"rate": 1}]}}, "needs a label"),
        ({"grid": {"load": [{"label": "a", "rat": 1}]}}, "did you mean 'rate'"),
        ({"grid": {"policy": ["ring"]}}, "say them once"),
        ({"grid": {"kv_tokens": [-1]}}, "kv_tokens"),
        ({"grid": {"policy_options.reserv": ["max"]}}, "did you mean 'reserve'"),
        ({"policy_options": {"paged": {}}}, "not among the policies"),
        ({"policies": ["pagd"]}, "did you mean 'paged'"),
        ({"plots": [{"kind": "heat", "x": "policy"}]}, "plots.y"),
        ({"plots": [{"kind": "pareto", "x": "goodput_rps", "y": "ttft"}]}, "plots.y"),
    ],
)
def test_a_wrong_study_is_refused_in_one_line_before_it_runs(fields, expected):
    with pytest.raises(InputError, match=r"^[^\n]*$") as refused:
        points_of(study_of(**fields))
    assert expected in str(refused.value)


def test_a_comparison_file_is_a_study():
    study = Study.load(Path(__file__).parents[2] / "kvlab" / "studies" / "demo.toml")
    assert {point.config.policy for point in points_of(study)} == set(study.policies)


# What is stored.


def test_a_sweep_stores_every_point_and_repeats_nothing(tmp_path):
    study = study_of(policies=["ring", "contiguous"], metrics=["ttft_s.p50", "preemptions"])
    stored = sweep(study, tmp_path / "out", jobs=1)
    frame = stored.frame()
    assert len(frame) == 4
    assert frame["ttft_s.p50"].notna().all()
    first = files_of(tmp_path / "out")
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "points").rglob("*")}
    sweep(study, tmp_path / "out", jobs=1)
    assert files_of(tmp_path / "out") == first
    assert all(path.stat().st_mtime_ns == then for path, then in times.items())
    run = stored.run_of(stored.index["points"][0])
    assert run.summary["ttft_s"]["p50"] == frame["ttft_s.p50"][0]
    wider = sweep(study_of(policies=["ring", "contiguous"], seeds=3), tmp_path / "out", jobs=1)
    assert len(wider.frame()) == 6
    assert all(
        (tmp_path / "out" / path).read_bytes() == old
        for path, old in first.items()
        if path != "sweep.json"
    )


def test_points_that_fail_say_why_and_do_not_stop_the_others(tmp_path):
    # 64 GiB of weights leave nothing of a device of 24 GiB.
    study = Study.of(
        {
            **{name: value for name, value in SMALL.items() if name != "kv_tokens"},
            "seeds": 2,
            "policies": ["contiguous"],
            "hardware": "rtx-4090",
            "grid": {"model": ["qwen3-32b", "llama-3.1-8b"]},
        }
    )
    stored = sweep(study, tmp_path / "out", jobs=1)
    assert len(stored.frame()) == 2
    reasons = [stored.failure_of(point) for point in stored.index["points"]]
    assert "leave nothing of rtx-4090" in reasons[0]
    assert reasons[1] == reasons[0]
    assert reasons[2:] == [None, None]
    before = files_of(tmp_path / "out")
    sweep(study, tmp_path / "out", jobs=1, retry=True)
    assert files_of(tmp_path / "out") == before


def test_other_directories_and_second_sweeps_are_refused(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="did not write"):
        sweep(study_of(), tmp_path, jobs=1)
    index = {"format": FORMAT, "points": [], "searches": [], "experiments": []}
    with (
        sweep_at(tmp_path / "out", index),
        pytest.raises(InputError, match="another sweep is running"),
        sweep_at(tmp_path / "out", index),
    ):
        pass
    with pytest.raises(InputError, match="cannot be read"):
        Sweep.load(tmp_path)


def test_a_full_disk_stops_the_sweep_and_leaves_only_whole_points(tmp_path, monkeypatch):
    study = study_of(policies=["contiguous", "ring"])
    whole = sweep(study, tmp_path / "whole", jobs=1)
    import reports.results as results

    written = []
    write = results.write_table

    def full(path, *args):
        written.append(path)
        if len(written) == 4:
            raise OSError(28, "No space left on device")
        write(path, *args)

    monkeypatch.setattr(results, "write_table", full)
    with pytest.raises(InputError, match="No space left"):
        sweep(study, tmp_path / "out", jobs=1)
    left = files_of(tmp_path / "out")
    assert 0 < len(left) < len(files_of(whole.root))
    assert left.items() <= files_of(whole.root).items()
    monkeypatch.undo()
    sweep(study, tmp_path / "out", jobs=1)
    assert files_of(tmp_path / "out") == files_of(whole.root)


def test_code_that_changes_while_a_sweep_runs_stops_it(tmp_path, monkeypatch):
    digests = iter(["then", "now"])
    monkeypatch.setattr("kvlab.study.sweeping.code_digest", lambda: next(digests, "now"))
    with pytest.raises(InputError, match=r"a worker cannot run points: .* is not what it was"):
        sweep(study_of(), tmp_path / "out", jobs=1)
    assert stored_in(tmp_path / "out") == 0


# What is left after being killed.


def start(study: Path, out: Path, *more: str) -> subprocess.Popen:
    command = [*KVLAB, "sweep", str(study), "--out", str(out), *more]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def stored_in(out: Path) -> int:
    return len([p for p in out.glob("points/*") if not p.name.startswith(".")])


def wait_for(out: Path, points: int, process: subprocess.Popen) -> None:
    until = time.monotonic() + 60
    while stored_in(out) < points and process.poll() is None and time.monotonic() < until:
        time.sleep(0.002)
    assert process.poll() is None, process.stderr.read()


def test_killed_twice_it_ends_with_the_bytes_of_an_undisturbed_one(tmp_path):
    (tmp_path / "study.toml").write_text(STUDY)
    whole = sweep(Study.load(tmp_path / "study.toml"), tmp_path / "whole", jobs=1)
    out = tmp_path / "out"
    moments = random.Random(tmp_path.name)
    for jobs, enough in (("2", moments.randint(1, 8)), ("1", moments.randint(11, 19))):
        process = start(tmp_path / "study.toml", out, "--jobs", jobs)
        wait_for(out, enough, process)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert enough <= stored_in(out) < 24
        # What a write that was cut off would leave.
        (out / "points" / ".kvlab-cut").mkdir()
        (out / ".kvlab-sweep.json").write_text("{")
    process = start(tmp_path / "study.toml", out, "--jobs", "1")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert files_of(out) == files_of(whole.root)
    assert sorted(p.name for p in (out / "points").iterdir()) == sorted(
        {point["id"] for point in whole.index["points"]}
    )
