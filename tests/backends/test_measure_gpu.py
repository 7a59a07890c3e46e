"""The one command for a GPU, on a CPU: its parts, its clock, and that it goes on where it was."""

from __future__ import annotations

import json

import pytest

from backends import ceilings, measure_gpu
from backends.arrays import Backend
from backends.calibrate import run
from backends.calibrate.plan import Extent
from backends.calibrate.timing import Effort
from backends.ceilings import SPLITS, Reach, error_lines, reaches
from backends.choice import backend_of
from backends.verification import scenarios
from sim.layers import AttentionSpec, FeedForwardSpec, LayerSpec
from sim.model import ModelSpec
from sim.policies.none import NoCache

TINY = Extent(
    cells=512,
    copied=(1 << 12, 1 << 14),
    square=(16, 32),
    rows=(16,),
    batches=(1,),
    lengths=(32,),
    chunks=(8,),
    prefixes=(0,),
    tokens=(1, 4),
    widest=64,
)
EFFORT = Effort(repeats=3, warmup=0, seconds=0.001)
ATTENTION = AttentionSpec(heads=4, kv_heads=2, head_dim_k=32, head_dim_v=32)
LAYER = LayerSpec(attention=ATTENTION, feed_forward=FeedForwardSpec(intermediate=64))
MODEL = ModelSpec("tiny", (LAYER, LAYER), hidden=64, vocab=64)


@pytest.fixture
def command(monkeypatch, tmp_path):
    """The command on the smallest of everything, and the folder that it writes into."""
    monkeypatch.setattr(scenarios, "GENERAL", scenarios.GENERAL[:1])
    monkeypatch.setattr(scenarios, "FORMATS", {})
    monkeypatch.setattr(scenarios, "ESPECIALLY", {})
    monkeypatch.setattr(run, "EXTENTS", {("numpy", True): TINY})
    monkeypatch.setattr(run, "QUICK", EFFORT)
    known = {name: measure_gpu.POLICIES[name] for name in ("none", "paged")}
    monkeypatch.setattr(measure_gpu, "POLICIES", known)
    monkeypatch.setattr(measure_gpu, "model_of", lambda name: MODEL)
    monkeypatch.setattr(Backend, "device_name", lambda self: "Some CPU")
    out = tmp_path / "out"
    options = ["--backend", "numpy", "--quick", "--out", str(out), "--kv-type", "f16"]
    return out, lambda *more: measure_gpu.main([*options, "--model", "tiny", *more])


def test_every_part_leaves_a_file_and_is_not_done_twice(command, capsys):
    out, main = command
    assert main("--minutes", "0") == 0
    left = "left for the next run: verify none, verify paged, calibrate tiny"
    assert left in capsys.readouterr().out and not list(out.iterdir())
    assert main() == 0
    found = {path.name: json.loads(path.read_text()) for path in out.iterdir()}
    assert found.keys() == {"verify-none.json", "verify-paged.json", "some-cpu-tiny.json"}
    assert found["some-cpu-tiny.json"]["points"]
    assert all("outputs" in text for text in found["verify-paged.json"]["scenarios"].values())
    capsys.readouterr()
    assert main() == 0
    assert capsys.readouterr().out.count("done before") == 3


def test_a_calibration_that_runs_out_of_time_goes_on_where_it_was(command, capsys, monkeypatch):
    out, main = command
    ticks = iter(range(10**6))
    monkeypatch.setattr(measure_gpu.time, "monotonic", lambda: float(next(ticks)))
    assert main("--minutes", "0.4") == 0
    printed = capsys.readouterr().out
    assert "calibrate tiny: stopped at point" in printed and "left for the next run: calibrate" in (
        printed
    )
    journal = out / "some-cpu-tiny.json.journal"
    measured = journal.read_text().splitlines()[1:]
    assert measured and not (out / "some-cpu-tiny.json").exists()
    assert main() == 0
    points = json.loads((out / "some-cpu-tiny.json").read_text())["points"]
    kept = {json.dumps(json.loads(line)["seconds"]) for line in measured}
    assert len(points) > len(measured)
    assert kept <= {json.dumps(point["seconds"]) for point in points}


def test_a_failed_verification_leaves_no_file_and_exit_status_1(command, capsys, monkeypatch):
    out, main = command
    sound = NoCache.commit

    def broken(self, step):
        placement = sound(self, step)
        placement.runs = placement.runs[:-1]
        return placement

    monkeypatch.setattr(NoCache, "commit", broken)
    assert main() == 1
    assert "FAILED" in capsys.readouterr().out
    assert not (out / "verify-none.json").exists() and (out / "verify-paged.json").exists()


def test_kernels_are_held_against_a_copy_in_the_same_run():
    small = {"copied": 1 << 16, "rows": 256, "decodes": ((2, 64), (1, 32)), "effort": EFFORT}
    found = list(reaches(backend_of("numpy"), MODEL, "f16", **small))
    layouts = ("range", "table", *(f"table, {n} splits" for n in SPLITS), "shuffled")
    assert [reach.name for reach in found] == [
        "device copy",
        *(f"copy, runs of {run} rows" for run in (16, 64, 256)),
        *(f"decode 2 x 64, {layout}" for layout in layouts),
        *(f"decode 1 x 32, {layout}" for layout in layouts),
    ]
    copy, decode = found[0], found[4]
    bandwidth = 2 * (1 << 16) / copy.seconds
    cell = 2 * ATTENTION.kv_heads * 32 * 2
    assert decode.share == pytest.approx(2 * 64 * cell / decode.seconds / bandwidth)
    targets = {reach.name: reach.target for reach in found if reach.target}
    assert targets == {
        **{f"copy, runs of {run} rows": 0.9 for run in (16, 64, 256)},
        **{f"decode 2 x 64, {layout}": 0.85 for layout in ("table", "shuffled")},
        **{f"decode 1 x 32, {layout}": 0.75 for layout in ("table", "shuffled")},
    }


def test_one_decode_is_run_for_a_profiler(capsys):
    args = ["2", "64", "--backend", "numpy", "--kv-type", "f16", "--times", "2"]
    assert ceilings.main(args) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and all(line.endswith(" GB/s") for line in lines)
    assert ceilings.main([*args, "--model", "no-such-model"]) == 2
    assert capsys.readouterr().err.startswith("ceilings: ")


def test_what_is_aimed_at_is_passed_or_missed():
    others = {"PyTorch": 2e-6, "cuDNN": 0.5e-6, "FlashInfer": "no compiler"}
    assert list(Reach("x", 1e-6, 0.8, 0.75, others).lines()) == [
        "x: 1.0 us, 80.0% of copy bandwidth",
        "  pass: x: 80.0% of copy bandwidth, at least 75%",
        "  pass: x: 0.50 times PyTorch's 2.0 us, at most 1",
        "  MISS: x: 2.00 times cuDNN's 0.5 us, at most 1",
        "  FlashInfer: could not be run (no compiler)",
    ]
    assert list(Reach("x", 1e-6, 0.7, 0.75).lines())[1].startswith("  MISS: x: 70.0%")
    assert list(Reach("x", 1e-6, 0.7).lines()) == ["x: 1.0 us, 70.0% of copy bandwidth"]
    errors = {
        "copy": {"points": 5, "median": 0.02, "p95": 0.09, "worst": 1.0},
        "write": {"points": 5, "median": 0.02, "p95": 0.11, "worst": 1.0},
        "launch": {"points": 0},
    }
    assert [line[:12] for line in error_lines(errors)] == ["  pass: copy", "  MISS: writ"]


@pytest.mark.gpu
def test_the_gpu_is_held_against_its_own_copies():
    from workloads.errors import InputError

    try:
        backend = backend_of("cupy")
    except InputError as missing:
        pytest.skip(str(missing))
    small = {"copied": 1 << 28, "decodes": ((8, 1024),), "effort": Effort(repeats=5)}
    # Nothing reads faster than the device copies, but for caches and the copy's own start.
    assert all(0 < reach.share < 1.5 for reach in reaches(backend, MODEL, "f16", **small))
