"""The one command for a GPU, on a CPU: its parts, its clock, and that it goes on where it was."""

from __future__ import annotations

import json

import pytest

from backends import measure_gpu
from backends.arrays import Backend, backend_of
from backends.calibrate import run
from backends.calibrate.plan import Extent
from backends.calibrate.timing import Effort
from backends.ceilings import reaches
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
    found = reaches(
        backend_of("numpy"),
        MODEL,
        "f16",
        copied=1 << 16,
        rows=256,
        decodes=((2, 64), (1, 32)),
        effort=EFFORT,
    )
    assert [reach.name for reach in found] == [
        "device copy",
        *(f"copy, runs of {run} rows" for run in (16, 64, 256)),
        *(f"decode 2 x 64, {layout}" for layout in ("range", "table", "shuffled")),
        *(f"decode 1 x 32, {layout}" for layout in ("range", "table", "shuffled")),
    ]
    copy, decode = found[0], found[4]
    bandwidth = 2 * (1 << 16) / copy.seconds
    cell = 2 * ATTENTION.kv_heads * 32 * 2
    assert decode.share == pytest.approx(2 * 64 * cell / decode.seconds / bandwidth)
    assert decode.torch is None and "of copy bandwidth" in decode.line()


@pytest.mark.gpu
def test_the_gpu_is_held_against_its_own_copies():
    pytest.importorskip("cupy", reason="CuPy is not installed (extra: gpu)")
    from workloads.errors import InputError

    try:
        backend = backend_of("cupy")
    except InputError as missing:
        pytest.skip(str(missing))
    found = reaches(
        backend, MODEL, "f16", copied=1 << 28, decodes=((8, 1024),), effort=Effort(repeats=5)
    )
    # Nothing reads faster than the device copies, but for caches and the copy's own start.
    assert all(0 < reach.share < 1.5 for reach in found)
